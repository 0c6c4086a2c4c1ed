"""Conversations as token ids of which only the answers are learned.

The model's own template writes them. What stands in front of an answer is read and not learned:
its tokens are kept as `-1 - id` (`token_file`). An answer ends with the token that ends a turn, and
what the template writes behind it is left out, since nobody will ask for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.core.llm import Message
from deepseek.data.records import BadRecord
from deepseek.data.token_file import EncodedDocument
from deepseek.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, those that are not learned as `-1 - id`."""

    ids: list[int]
    n_bytes: int
    """Of the text that is learned."""
    is_truncated: bool

    def document(self) -> EncodedDocument:
        """For a token file."""
        return EncodedDocument(self.ids, self.n_bytes, 0.0)


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message], most: int) -> Example:
    """Render a conversation and mark its answers.

    Answers of earlier turns are learned where the template leaves them as they were said; some
    templates take reasoning out of them.

    Args:
        tokenizer: The model's.
        messages: With an assistant's among them.
        most: Tokens; what is behind is cut off.

    Raises:
        BadRecord: Nothing is left to learn.
        TokenizerError: The template refuses the conversation.
    """
    last = max(i for i, message in enumerate(messages) if message.role == "assistant")
    said = messages[: last + 1]
    whole = tokenizer.encode_chat(said, add_generation_prompt=False)
    is_learned = [False] * len(whole)
    end = 0
    for number, message in enumerate(said):
        if message.role != "assistant":
            continue
        before = tokenizer.encode_chat(said[:number])
        after = whole
        if number < last:
            after = tokenizer.encode_chat(said[: number + 1], add_generation_prompt=False)
        if whole[: len(after)] != after or after[: len(before)] != before:
            continue
        end = _end_of_turn(tokenizer, after, len(before))
        is_learned[len(before) : end] = [True] * (end - len(before))
    if not end:
        raise BadRecord("the chat template changes what was said: no answer can be marked")
    return _cut(tokenizer, whole[:end], is_learned, most)


def encode_text(tokenizer: Tokenizer, text: str, most: int) -> list[Example]:
    """A plain text, all of it learned, in pieces that fit."""
    ids = [*tokenizer.encode(text, add_bos=True), tokenizer.end_id]
    pieces = [ids[i : i + most] for i in range(0, len(ids), most)]
    return [_cut(tokenizer, piece, [True] * len(piece), most) for piece in pieces if len(piece) > 1]


def _cut(tokenizer: Tokenizer, ids: list[int], is_learned: list[bool], most: int) -> Example:
    kept = ids[:most]
    # The first token of a window is predicted by nothing.
    learned = [i for i, is_own in zip(kept[1:], is_learned[1:], strict=False) if is_own]
    if not learned:
        raise BadRecord(f"what is in front of the answer takes {most:,} tokens or more")
    marked = [i if own else -1 - i for i, own in zip(kept, is_learned, strict=False)]
    n_bytes = sum(len(tokenizer.token_bytes(i)) for i in learned if i not in tokenizer.hidden_ids)
    return Example(marked, n_bytes, len(ids) > most)


def _end_of_turn(tokenizer: Tokenizer, ids: Sequence[int], start: int) -> int:
    """The place behind the last token that ends a turn."""
    ends = [place + 1 for place in range(start, len(ids)) if ids[place] in tokenizer.eos_ids]
    return ends[-1] if ends else len(ids)
