"""What of a prompt other prompts may begin with, and where reading it may pause."""

from deepseek.engine.runner import CHUNK
from deepseek.ops.hierarchical import FEW, PAGE, Hierarchy

ASKING = 128
"""Last tokens of a prompt, which may choose what they recall in another way than the rest."""
LEAST = 2 * PAGE
"""New tokens with which reading always gets on."""


def shareable_length(n_prompt: int, hierarchy: Hierarchy | None) -> int:
    """Leading tokens of a prompt, in whole pages, whose keys and values are any prompt's.

    So much of it may be left for other prompts, and so much may be taken from them. With dense
    attention nothing depends on what follows.
    """
    if hierarchy is None:
        return n_prompt // PAGE * PAGE
    return max(0, n_prompt - ASKING) // PAGE * PAGE


def chunk_end(
    start: int, n_tokens: int, most: int, n_prompt: int, hierarchy: Hierarchy | None
) -> int:
    """How far reading goes on so that pausing there changes no bit.

    Args:
        start: Tokens that were read.
        n_tokens: Of prompt and answer, more than `start`.
        most: New tokens that there is room for, at least `LEAST`.
        n_prompt: Tokens of the prompt; an answer's tokens are read again after its pages were
            taken away.
        hierarchy: What tokens see. With dense attention reading may pause anywhere.
    """
    if hierarchy is None or n_tokens <= hierarchy.dense // PAGE * PAGE:
        return min(n_tokens, start + most)
    if start >= n_prompt:
        # Each token of an answer chose alone; a few new tokens do, too.
        return min(n_tokens, start + min(most, FEW))
    pause = (start + most) // PAGE * PAGE
    last_chunk = (n_prompt - 1) // CHUNK * CHUNK
    if n_prompt - last_chunk <= FEW:
        # As few as these choose alone when the prompt is read in chunks: then they always do.
        return n_prompt if start >= last_chunk else min(pause, last_chunk)
    if n_prompt - start <= most:
        return n_prompt
    return min(pause, (n_prompt - FEW - 1) // PAGE * PAGE)
