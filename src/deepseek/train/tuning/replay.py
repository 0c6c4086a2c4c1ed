"""General data that the base makes itself: its own answers to short seeds.

What a model says by itself is what it should not forget; learning it again beside the domain keeps
it better than texts of others do. The answers are kept in the run's folder as records that say
where they come from, so that they can be read, judged and used again.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from deepseek.core.errors import DocumentError
from deepseek.core.llm import Completion, Message, Prompt, SamplingParams
from deepseek.data.records import Quarantine, read_records
from deepseek.train.tuning.config import MixSettings
from deepseek.weights.cache import write_atomically

Ask = Callable[[Sequence[Prompt], Sequence[SamplingParams]], list[Completion]]
"""Lets the model as it is now answer prompts, each with its own settings, in their order."""
BUILTIN = "seeds.txt of deepseek.train.tuning"
FILE = "replay.jsonl"


def own_answers(
    ask: Callable[[], Ask], settings: MixSettings, *, base: str, seed: int, most: int, folder: Path
) -> Path:
    """Let the base answer seeds, or find the answers that it gave before.

    Args:
        ask: Gives what asks the base; called only if answers are missing.
        settings: How many, and how they are drawn.
        base: Its name, for whoever reads them.
        seed: Of the draws.
        most: Records that will be read; more are not made.
        folder: Where the records are kept.

    Raises:
        DocumentError: The seeds cannot be read, or no answer is of use.
    """
    n_answers = max(1, min(settings.answers, most))
    seeds, origin = _seeds(settings)
    about: dict[str, Any] = {
        "made_by": base,
        "seeds": origin,
        "seed": seed,
        "temperature": settings.temperature,
        "answer_tokens": settings.answer_tokens,
        "answers": n_answers,
    }
    path = folder / FILE
    if _origin(path) == about:
        return path
    # A seed that comes again gets another answer.
    asked = [(seeds[n % len(seeds)], seed * 1_000_003 + n) for n in range(n_answers)]
    prompts: list[Prompt] = [[Message("user", text)] for text, _ in asked]
    params = [
        SamplingParams(
            max_tokens=settings.answer_tokens, temperature=settings.temperature, seed=own
        )
        for _, own in asked
    ]
    answers = ask()(prompts, params)
    lines = list(_lines(asked, answers, about))
    if not lines:
        raise DocumentError(
            "the base gave no answer that is of use", "name general data by --general PATH"
        )
    write_atomically(path, "".join(lines).encode())
    return path


def _lines(
    asked: Sequence[tuple[str, int]], answers: Sequence[Completion], about: Mapping[str, Any]
) -> Iterator[str]:
    for (text, own), answer in zip(asked, answers, strict=True):
        if answer.text.strip():
            messages = [
                {"role": "user", "content": text},
                {"role": "assistant", "content": answer.text},
            ]
            facts = {**about, "draw": own, "finish_reason": answer.finish_reason}
            row = {"messages": messages, "origin": facts}
            yield json.dumps(row, ensure_ascii=False) + "\n"


def _seeds(settings: MixSettings) -> tuple[list[str], str]:
    if settings.seeds is None:
        text = resources.files("deepseek.train.tuning").joinpath("seeds.txt").read_text("utf-8")
        origin = BUILTIN
    else:
        try:
            text = Path(settings.seeds).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DocumentError(
                f"cannot read {settings.seeds}: {error}", "name a text file in mix.seeds"
            ) from None
        origin = Path(settings.seeds).name
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise DocumentError(f"{settings.seeds} holds no seeds", "write one a line")
    return found, origin


def _origin(path: Path) -> dict[str, Any] | None:
    """What the records there say of themselves, but for what differs from one to the next."""
    if not path.exists():
        return None
    first = next(read_records([path], Quarantine()), None)
    origin = first.values.get("origin") if first is not None else None
    if not isinstance(origin, dict):
        return None
    return {k: v for k, v in origin.items() if k not in ("draw", "finish_reason")}
