"""What of a prompt other prompts may begin with, and where reading it may pause."""

from deepseek.engine.runner import first_asking
from deepseek.ops.hierarchical import PAGE, Hierarchy

LEAST = 2 * PAGE
"""New tokens with which reading always gets on."""


def shareable_length(n_prompt: int, hierarchy: Hierarchy | None) -> int:
    """Leading tokens of a prompt, in whole pages, whose keys and values are any prompt's.

    So much of it may be left for other prompts, and so much may be taken from them. With dense
    attention nothing depends on what follows; else tokens that ask, beyond the dense part, do.
    """
    if hierarchy is None:
        return n_prompt // PAGE * PAGE
    dense = min(n_prompt, hierarchy.n_dense)
    return max(dense, first_asking(n_prompt)) // PAGE * PAGE


def chunk_end(
    start: int, n_tokens: int, most: int, n_prompt: int, hierarchy: Hierarchy | None
) -> int:
    """How far reading goes on so that pausing there changes no bit.

    Args:
        start: Tokens that were read.
        n_tokens: Of prompt and answer, more than `start`.
        most: New tokens that there is room for, at least `LEAST`.
        n_prompt: Tokens of the prompt.
        hierarchy: What tokens see. With dense attention reading may pause anywhere, and so it may
            among tokens that ask; those that read choose together, and pages of them look together.
    """
    end = min(n_tokens, start + most)
    if hierarchy is None or end <= hierarchy.n_dense or end >= first_asking(n_prompt):
        return end
    return end // PAGE * PAGE
