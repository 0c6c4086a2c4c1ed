"""Result numbers in the text, and what in the tables and the rest of the text supports them."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from deepseek.apps.papers.flaws.grid import Entry, Grid, Row
from deepseek.apps.papers.flaws.metrics import metrics_in
from deepseek.apps.papers.flaws.numbers import SETTING, Number, numbers_in
from deepseek.apps.papers.flaws.paper import CLAIMING, Mention, PaperView

ACHIEVES = re.compile(
    r"\b(achiev|obtain|reach|attain|yield|scor|get|gets|got|perform|result|improv|report|from|to|vs"
    r"|versus|compared|with|at|of|is|was|are|were|drop|increas|decreas)\w*\b[^.;]{0,30}$"
    r"|达到|取得|为",
    re.IGNORECASE,
)
ELSEWHERE = re.compile(
    r"\bhuman|annotat|agreement|kappa|inter-|of (all |the |our )?(\w+ )?(questions|errors|cases"
    r"|samples"
    r"|examples|instances|sentences|pairs|documents|users|times|data|tokens|words|training"
    r"|answers)\b"
    r"|figure|fig\.|faster|speed|seconds|average (length|number)|memory|vocabulary|coverage"
    r"|parameters|hours|minutes|epoch|dropout|learning rate|threshold|\bγ|\bα|\bβ|\bλ|σ|hyper",
    re.IGNORECASE,
)
OTHERS = re.compile(r"\bet al\b|\((\w[^()]*)?\b(19|20)\d\d[a-z]?\)|\[\d+\]")
TABLE = re.compile(r"(?:tables?|tab\.|表)\s*([A-Z]?\d{1,3}|[IVX]{1,5}\b)", re.IGNORECASE)
OURS = re.compile(
    r"\b(we|our|ours|us|the proposed|this paper|this work)\b|我们|本文", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Result:
    """A number that a sentence gives as a result."""

    mention: Mention
    has_metric: bool
    """A metric is named within a few words."""

    @property
    def number(self) -> Number:
        """The number; its offsets are those of the sentence's text."""
        return self.mention.number

    @property
    def text(self) -> str:
        """The sentence."""
        return self.mention.line.text


class Support:
    """Where numbers of a paper stand outside its running text."""

    def __init__(self, view: PaperView) -> None:
        self.view = view

    @cached_property
    def results(self) -> list[Result]:
        """Numbers that are given as results: of an evaluation, not settings or counts."""
        found = []
        for mention in self.view.mentions:
            line, number = mention.line, mention.number
            if mention.use != "score" or line.role not in CLAIMING:
                continue
            if not number.decimals or not number.value:
                continue
            near = line.text[max(0, number.start - 45) : number.end + 30]
            close = line.text[max(0, number.start - 18) : number.end + 18]
            has_metric = any(True for _ in metrics_in(near))
            is_named = any(True for _ in metrics_in(close))
            if not is_named and SETTING.search(re.sub(r"\(?p ?[<≤=] ?[\d.]+\)?", "", near)):
                continue
            if has_metric or ACHIEVES.search(line.text[max(0, number.start - 60) : number.start]):
                found.append(Result(mention, has_metric))
        return found

    @cached_property
    def pool(self) -> list[float]:
        """All numbers outside running text, sorted: tables, figures, captions, formulas."""
        document = self.view.document
        prose: dict[int, list[tuple[int, int]]] = {}
        for line in self.view.prose:
            for span in line.sentence.spans:
                prose.setdefault(span.page, []).append((span.start, span.end))
        values: list[float] = []
        for page in document.pages:
            last = 0
            for start, end in [*sorted(prose.get(page.number, [])), (len(page.text),) * 2]:
                piece = re.sub(r"[±()\[\]/|*†‡]|(?<=\d)[−–](?=\d)", " ", page.text[last:start])
                values += [abs(number.value) for number in numbers_in(piece)]
                last = max(last, end)
        values += [abs(e.number.value) for _, _, e in self.view.entries]
        return sorted(values)

    def in_pool(self, number: Number) -> bool:
        """Whether a number stands outside running text, also as a share for a percentage."""
        return any(self._near(number, scale) for scale in (1.0, 100.0, 0.01))

    def _near(self, number: Number, scale: float) -> bool:
        unit = 10.0**-number.decimals
        at = bisect_left(self.pool, (abs(number.value) - unit) / scale)
        while at < len(self.pool) and self.pool[at] * scale <= abs(number.value) + unit:
            if number.equals(self.pool[at] * scale):
                return True
            at += 1
        return False

    def cells(self, number: Number) -> list[tuple[Grid, Row, Entry]]:
        """The table entries that are this number."""
        return [
            (grid, row, entry)
            for grid, row, entry in self.view.entries
            if entry.number.decimals >= number.decimals and number.equals(entry.number.value)
        ]

    @cached_property
    def matched(self) -> list[bool]:
        """For each result: whether it stands in a table, figure or caption too."""
        return [self.in_pool(result.number) for result in self.results]

    def tables_named(self, text: str) -> list[Grid]:
        """The tables that a sentence refers to by number."""
        numbers = {match[1] for match in TABLE.finditer(text)}
        return [grid for grid in self.view.grids if grid.number in numbers]
