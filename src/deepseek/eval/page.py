"""A report as one self-contained HTML page, to read single items and see where a model fails.

The page fetches nothing and runs one script, named by its hash in the page's own policy. Prompts
and outputs come from anywhere: they travel as JSON and are only ever set as text.
"""

import base64
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from deepseek.eval.record import Estimate, Record, Report, TaskRun
from deepseek.eval.statistics import WEIGHT

MAX_TEXT = 20_000
"""Characters of a text in the page; of a longer one the middle is left out."""
MIN_TEXT = 1_000
MAX_PAGE = 60_000_000
"""Characters of all texts; where they are more, `MAX_TEXT` is halved until they fit."""
MIN_SHARED = 200
"""Characters of a beginning that is worth folding."""

Text = str | tuple[str, int, str]
"""A text, or its beginning, the number of characters left out, and its end."""


def render_page(report: Report) -> str:
    """The page of a report: scores with intervals, groups, and every item behind filters."""
    tasks = [_task(run) for run in report.runs]
    prompts = [_prompts(run) for run in report.runs]
    limit = _limit(report, [text for _, rests in prompts for _, text in rests])
    for task, run, (shared, rests) in zip(tasks, report.runs, prompts, strict=True):
        task["shared"] = [_cut(text, limit) for text in shared]
        task["skips"] = _skips(run, [rest for _, rest in rests])
    items = [
        _item(number, run, record, rest, place, limit)
        for number, (run, (_, rests)) in enumerate(zip(report.runs, prompts, strict=True))
        for record, (place, rest) in zip(run.records, rests, strict=True)
    ]
    folder = resources.files("deepseek.eval")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    template = folder.joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    digest = hashlib.sha256(script.encode()).digest()
    text = environment.from_string(template).render(
        report=report,
        tasks=tasks,
        n_items=len(items),
        cut_at=limit,
        script=Markup(script),  # ours, not the report's
        script_hash=base64.b64encode(digest).decode(),
        data=_embedded({"tasks": tasks, "items": items}),
        shown=shown_value,
    )
    return text.encode("utf-8", "replace").decode()  # lone surrogates cannot be written


def shown_value(value: float, is_share: bool) -> str:
    """A score as people read it: per cent, or four digits."""
    return f"{100 * value:.1f} %" if is_share else f"{value:.4g}"


def _embedded(value: Any) -> Markup:
    """JSON that no HTML parser can take for markup, whatever its strings say."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    """Numbers that JSON does not have become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _task(run: TaskRun) -> dict[str, Any]:
    """What the page shows of a task."""
    head = run.summary.get(run.metric)
    return {
        "name": run.task,
        "protocol": run.protocol,
        "metric": run.metric,
        "isShare": _is_share(run),
        "shots": run.shots,
        "chat": run.chat,
        "n": len(run.records),
        "nAvailable": run.n_available,
        "nErrors": run.n_errors,
        "seconds": run.seconds,
        "chance": _chance(run),
        "head": _numbers(head) if head else None,
        "summary": {name: _numbers(score) for name, score in run.summary.items()},
        "groups": {name: _numbers(score) for name, score in run.groups.items()},
    }


def _numbers(score: Estimate) -> tuple[float, float, float, int]:
    return score.value, score.low, score.high, score.n


def _is_share(run: TaskRun) -> bool:
    """Whether the headline lies between wrong and right, and is no likelihood."""
    grades = [record.grades for record in run.records if not record.error]
    values = [one[run.metric] for one in grades if run.metric in one]
    weighted = any(run.metric + WEIGHT in one for one in grades)
    return not weighted and all(0 <= value <= 1 for value in values)


def _chance(run: TaskRun) -> float | None:
    """What guessing gets, where every item has choices."""
    counts = [len(record.scores) for record in run.records if not record.error]
    if not run.metric.startswith("acc") or not counts or min(counts) < 2:
        return None
    return sum(1 / n for n in counts) / len(counts)


def _prompts(run: TaskRun) -> tuple[list[str], list[tuple[int, str]]]:
    """Long beginnings that the prompts of a group share, and each prompt's own rest.

    Five solved examples before each of 14,042 questions would make a page of 50 MB, and hide
    the question besides.
    """
    prompts = [_conversation(record.prompt) for record in run.records]
    beginnings: dict[str, int] = {}
    rests = [(-1, prompt) for prompt in prompts]
    for places in _places(run).values():
        texts = [prompts[place] for place in places]
        common = texts[0][: _n_common(texts)]
        common = common[: common.rfind("\n\n") + 2] if "\n\n" in common else ""
        if len(places) > 1 and len(common) >= MIN_SHARED:
            number = beginnings.setdefault(common, len(beginnings))
            for place in places:
                rests[place] = (number, prompts[place][len(common) :])
    return list(beginnings), rests


def _skips(run: TaskRun, rests: Sequence[str]) -> dict[str, int]:
    """How many characters all prompts of a group begin with: no use in a list of items."""
    skips = {}
    for group, places in _places(run).items():
        texts = [rests[place] for place in places]
        common = texts[0][: _n_common(texts)] if len(texts) > 1 else ""
        skips[group] = 1 + max(common.rfind(" "), common.rfind("\n"))
    return skips


def _places(run: TaskRun) -> dict[str, list[int]]:
    """Where the items of each group stand."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, record in enumerate(run.records):
        places[record.group].append(place)
    return places


def _n_common(texts: Sequence[str]) -> int:
    """Characters with which all texts begin."""
    first, last = min(texts), max(texts)  # what these two share, all that lie between share
    pairs = enumerate(zip(first, last, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))


def _conversation(prompt: str) -> str:
    """A conversation, which is recorded as JSON, as text with a line before each turn."""
    if not prompt.startswith('[{"role"'):
        return prompt
    try:
        turns = json.loads(prompt)
        return "\n\n".join(f"⟦{turn['role']}⟧\n{turn['content']}" for turn in turns)
    except (ValueError, KeyError, TypeError, RecursionError):
        return prompt  # it was a text that began like one, or the record was shortened


def _item(
    number: int, run: TaskRun, record: Record, rest: str, shared: int, limit: int
) -> list[Any]:
    """One item as the script reads it; the order is that of `FIELDS` there."""
    values, chosen = _choices(run.metric, record)
    return [
        number,
        record.id,
        record.group,
        shared,
        _cut(rest, limit),
        _cut_all(record.expected, limit),
        _cut(record.output, limit),
        [
            [round(score[0], 4), score[1], score[2], round(value, 4)]
            for score, value in zip(record.scores, values, strict=True)
        ],
        chosen,
        record.grades,
        round(record.seconds, 4),
        record.error,
        record.prompt_sha256,
    ]


def _choices(metric: str, record: Record) -> tuple[list[float], int]:
    """What the headline compares of each choice, and the choice that wins; see `grade_choice`."""
    texts = record.expected.get("choices") if isinstance(record.expected, dict) else None
    if not isinstance(texts, list) or len(texts) != len(record.scores) or not texts:
        return [score[0] for score in record.scores], -1
    sizes: list[int] = {
        "acc_norm": [len(str(text).removeprefix(" ")) for text in texts],
        "acc_bytes": [len(str(text).encode("utf-8", "replace")) for text in texts],
        "acc_token": [score[1] for score in record.scores],
    }.get(metric, [1] * len(texts))
    values = [s[0] / (size or 1) for s, size in zip(record.scores, sizes, strict=True)]
    return values, max(range(len(values)), key=values.__getitem__)


def _limit(report: Report, prompts: Sequence[str]) -> int:
    """Characters of a text that keep the page within its bound."""
    lengths = [len(prompt) for prompt in prompts]
    for run in report.runs:
        for record in run.records:
            lengths += map(len, (record.output, *_strings(record.expected)))
    limit = MAX_TEXT
    while limit > MIN_TEXT and sum(min(n, limit) for n in lengths) > MAX_PAGE:
        limit //= 2
    return max(limit, MIN_TEXT)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)


def _cut(text: str, limit: int) -> Text:
    if len(text) <= limit:
        return text
    return text[: limit // 2], len(text) - limit, text[limit // 2 - limit :]


def _cut_all(value: Any, limit: int) -> Any:
    """A reference with its long texts cut, the gap told in words."""
    if isinstance(value, str):
        cut = _cut(value, limit)
        if isinstance(cut, str):
            return cut
        return f"{cut[0]}\n[… {cut[1]:,} characters left out …]\n{cut[2]}"
    if isinstance(value, dict):
        return {str(name): _cut_all(inner, limit) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cut_all(inner, limit) for inner in value]
    return value
