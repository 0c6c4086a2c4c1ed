"""Prompts and continuations as token ids, the same for every model that uses our tokenizer."""

from collections.abc import Sequence

from deepseek.core.errors import RequestError
from deepseek.core.llm import Prompt
from deepseek.tokenizer.tokenizer import Tokenizer

MAX_CONTINUATIONS = 1_024


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of a prompt; an assistant's last message is left open to be continued.

    Raises:
        RequestError: The prompt is empty.
        TokenizerError: The chat template refuses the conversation.
    """
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt, add_bos=True)
    elif not prompt:
        ids = []
    elif prompt[-1].role == "assistant":
        ids = tokenizer.encode_chat(prompt[:-1]) + tokenizer.encode(prompt[-1].content)
    else:
        ids = tokenizer.encode_chat(prompt)
    if not ids:
        raise RequestError("the prompt is empty", "write something to continue")
    return ids


def encode_pair(
    tokenizer: Tokenizer, prompt: Prompt, continuations: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a prompt and of each continuation behind it.

    After plain text the two are encoded together and the prompt's tokens cut off, as lm-eval
    does: a space belongs to the word behind it. Behind no prompt at all, a text begins after
    the token that begins (or else ends) texts of this model.

    Raises:
        RequestError: There is nothing to score, or too much.
    """
    if not 1 <= len(continuations) <= MAX_CONTINUATIONS:
        raise RequestError(
            f"{len(continuations)} continuations", f"score 1 to {MAX_CONTINUATIONS} at a time"
        )
    if not all(continuations):
        raise RequestError("a continuation is empty", "give each at least one character")
    if not isinstance(prompt, str):
        ids = encode_prompt(tokenizer, prompt)
        encoded = [tokenizer.encode(text) for text in continuations]
    elif not prompt:
        ids = _beginning(tokenizer)
        encoded = [tokenizer.encode(text) for text in continuations]
    else:
        # Trailing space would make a token of its own that training never saw there.
        text = prompt.rstrip()
        space = prompt[len(text) :]
        ids = encode_prompt(tokenizer, text)
        alone = len(tokenizer.encode(text))
        encoded = [tokenizer.encode(text + space + c)[alone:] for c in continuations]
    if not all(encoded):
        raise RequestError("a continuation is lost in the prompt's last token", "end it earlier")
    return ids, encoded


def _beginning(tokenizer: Tokenizer) -> list[int]:
    if tokenizer.bos_id is not None:
        return [tokenizer.bos_id]
    if not tokenizer.eos_ids:
        raise RequestError("the prompt is empty", "this model has no token that begins a text")
    return [min(tokenizer.eos_ids)]
