"""What users said about answers, as training data: conversations and preference pairs.

A line of the log is an object with `prompt` (a text, or turns of a conversation), `answer`, and
`rating` (`good` or `bad`) or `correction` (a better answer), or both. `id`, `model` and `user` may
be there; `user` is not kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

from deepseek.core.errors import ConfigError, RequestError
from deepseek.core.llm import Message, Role
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.lines import read_lines

RATINGS = ("good", "bad")
FIELDS = frozenset(("prompt", "answer", "rating", "correction", "id", "model", "user"))
LONGEST = 1 << 20
"""Characters of a prompt or an answer."""
MAX_PAIRS = 4
"""Of one prompt: someone who rates one question a hundred times does not decide for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One line of the log."""

    turns: tuple[Message, ...]
    answer: str
    rating: str
    """`good`, `bad`, or empty."""
    correction: str
    place: str
    """File and line."""
    id: str = ""
    model: str = ""


@dataclass(slots=True)
class FeedbackData:
    """What the log gives for training, and what became of its lines."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """Good answers and corrections, as conversations."""
    pairs: list[dict[str, Any]] = field(default_factory=list)
    """A better against a worse answer to the same prompt."""
    read: int = 0
    repeated: int = 0
    contaminated: int = 0
    disputed: int = 0
    """Answers that are called good and bad: used for neither."""


def read_feedback(path: Path) -> Iterator[Feedback]:
    """The lines of a log, checked.

    Raises:
        ConfigError: The file cannot be read, or a line is not of this form; it names the line.
    """
    for number, row in read_lines(path):
        place = f"{path}:{number}"
        try:
            yield _feedback(row, place)
        except RequestError as error:
            raise ConfigError(f"{place}: {error.message}", error.hint) from None


def feedback_data(
    entries: Sequence[Feedback], index: ContaminationIndex | None = None
) -> FeedbackData:
    """Records and pairs of a log.

    A correction makes a record, and a pair against the answer that it corrects. A good answer makes
    a record, and pairs against bad answers to the same prompt. Lines that repeat others, or share
    a stretch with evaluation texts, are left out.

    Args:
        entries: The lines.
        index: Evaluation texts.
    """
    data = FeedbackData()
    kept = _kept(entries, index, data)
    verdicts: dict[tuple[str, str], set[str]] = {}
    for entry in kept:
        if entry.rating:
            verdicts.setdefault((_prompt_key(entry), entry.answer), set()).add(entry.rating)
    disputed = {key for key, ratings in verdicts.items() if len(ratings) > 1}
    data.disputed = len(disputed)
    by_prompt: dict[str, list[Feedback]] = {}
    for entry in kept:
        by_prompt.setdefault(_prompt_key(entry), []).append(entry)
    for key, group in by_prompt.items():
        clear = [e for e in group if (key, e.answer) not in disputed]
        good = [e for e in clear if e.rating == "good"]
        bad = [e for e in clear if e.rating == "bad"]
        seen: set[str] = set()
        better = [(e, e.correction) for e in group if e.correction] + [(e, e.answer) for e in good]
        for entry, answer in better:
            if answer not in seen:
                seen.add(answer)
                data.records.append(_record(entry, answer))
        pairs = [(e, e.correction, e.answer) for e in group if e.correction]
        pairs += [(g, g.answer, b.answer) for g in good for b in bad]
        different = {(c, r): e for e, c, r in reversed(pairs) if c != r and r.strip()}
        for (chosen, rejected), entry in list(reversed(different.items()))[:MAX_PAIRS]:
            data.pairs.append(_pair(entry, chosen, rejected))
    return data


def _kept(
    entries: Sequence[Feedback], index: ContaminationIndex | None, data: FeedbackData
) -> list[Feedback]:
    kept, seen = [], set()
    for entry in entries:
        data.read += 1
        key = (_prompt_key(entry), entry.answer, entry.rating, entry.correction)
        if key in seen:
            data.repeated += 1
            continue
        seen.add(key)
        said = [turn.content for turn in entry.turns] + [entry.answer, entry.correction]
        if index is not None and index.matches("\n".join(said)):
            data.contaminated += 1
            continue
        kept.append(entry)
    return kept


def _feedback(row: Mapping[str, Any], place: str) -> Feedback:
    unknown = sorted(set(row) - FIELDS)
    if unknown:
        raise RequestError(f"unknown field {unknown[0]!r}", f"known: {', '.join(sorted(FIELDS))}")
    answer, correction = _text(row, "answer"), _text(row, "correction")
    rating = _text(row, "rating")
    if rating and rating not in RATINGS:
        raise RequestError(f"rating is {rating!r}", f"allowed: {', '.join(RATINGS)}")
    if not rating and not correction:
        raise RequestError("neither rating nor correction is there", "give one of them")
    if not answer.strip() and not correction.strip():
        raise RequestError("the answer is empty", "give the model's answer")
    if rating == "good" and correction:
        raise RequestError("the answer is good and corrected", "drop one of the two")
    return Feedback(
        turns=_turns(row.get("prompt")),
        answer=answer,
        rating=rating,
        correction=correction,
        place=place,
        id=_text(row, "id"),
        model=_text(row, "model"),
    )


def _turns(prompt: Any) -> tuple[Message, ...]:
    turns: tuple[Message, ...]
    if isinstance(prompt, str):
        turns = (Message("user", prompt),)
    elif isinstance(prompt, list) and all(
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and isinstance(turn["content"], str)
        and turn["role"] in get_args(Role)
        for turn in prompt
    ):
        turns = tuple(Message(turn["role"], turn["content"]) for turn in prompt)
    else:
        raise RequestError(
            "prompt is no text and no conversation",
            'write a text, or [{"role": "user", "content": "…"}] with system, user, assistant',
        )
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise RequestError("the prompt does not end with a user's words", "leave the answer out")
    if sum(len(turn.content) for turn in turns) > LONGEST:
        raise RequestError("the prompt is too long", f"at most {LONGEST:,} characters")
    return turns


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > LONGEST:
        raise RequestError(f"{name} is no text", f"give a text of at most {LONGEST:,} characters")
    return value


def _prompt_key(entry: Feedback) -> str:
    said = "\0".join(f"{turn.role}\0{turn.content.strip()}" for turn in entry.turns)
    return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _record(entry: Feedback, answer: str) -> dict[str, Any]:
    turns = [*_plain(entry.turns), {"role": "assistant", "content": answer}]
    return {
        "text": "\n".join(turn["content"] for turn in turns),
        "messages": turns,
        "provenance": _provenance(entry),
    }


def _pair(entry: Feedback, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": _plain(entry.turns),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "provenance": _provenance(entry),
    }


def _provenance(entry: Feedback) -> dict[str, str]:
    found = {"source": "feedback", "place": Path(entry.place).name, "id": entry.id}
    return {**found, "model": entry.model}


def _plain(turns: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]
