"""One shard through one pass: the unit of work, the same in this process, in a pool or on Ray.

What it writes depends on the shard, the settings and the states of global operators, on nothing
else. It writes its tally last; a shard with a tally is done.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TextIO

import numpy as np

from deepseek.core.llm import LanguageModel
from deepseek.data.quality.config import CleanConfig, Step
from deepseek.data.quality.document import INDEX_BITS, Document
from deepseek.data.quality.layout import (
    DROPPED,
    KEPT,
    QUARANTINE,
    Layout,
    load_arrays,
    save_arrays,
    texts_as_array,
    write_json,
)
from deepseek.data.quality.operator import Context, Decision, Operator, Scores
from deepseek.data.quality.passes import Pass, passes_of
from deepseek.data.quality.plan import Shard
from deepseek.data.quality.readers import Reader
from deepseek.data.quality.record import Flaw
from deepseek.data.quality.shard import appearing, document_line, documents_in, line_of
from deepseek.data.quality.tally import OperatorTally, Tally, count, rule_of

MAX_BATCH = 4_096
"""Documents that operators see at once."""
NUMBERS, IDS, DOMAINS = "/numbers", "/ids", "/domains"
"""Columns beside the scores, whose names are Python's."""


@dataclass(slots=True)
class _Columns:
    """Scores of a global operator, batch after batch."""

    scores: list[Scores] = field(default_factory=list)
    documents: list[tuple[int, str, str]] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        names = self.scores[0] if self.scores else {}
        found = {name: np.concatenate([scores[name] for scores in self.scores]) for name in names}
        numbers, ids, domains = zip(*self.documents, strict=True) if self.documents else ((),) * 3
        return found | {
            NUMBERS: np.array(numbers, np.int64),
            IDS: texts_as_array(ids),
            DOMAINS: texts_as_array(domains),
        }


class ShardRunner:
    """Does tasks; made once in each process."""

    def __init__(
        self,
        config: CleanConfig,
        out: Path,
        open_model: Callable[[str], LanguageModel] | None = None,
    ) -> None:
        self.config = config
        self.layout = Layout(out)
        self._context = Context(config.folder, open_model)
        self._settled: dict[int, dict[str, np.ndarray]] = {}

    @cached_property
    def operators(self) -> list[Operator]:
        """All of them, in order."""
        return self.config.operators(self._context)

    @cached_property
    def passes(self) -> list[Pass]:
        """Over all documents."""
        return passes_of(self.operators)

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.config.settings)

    def close(self) -> None:
        """End child processes."""
        if "_reader" in self.__dict__:
            self._reader.close()

    def run(self, number: int, shard: int, text: str) -> None:
        """A pass over a shard.

        Args:
            number: Of the pass.
            shard: Its number.
            text: The shard as JSON.

        Raises:
            OSError: A file cannot be written.
        """
        layout, current = self.layout, self.passes[number]
        is_last = number == len(self.passes) - 1
        tally, columns = Tally(), _Columns()
        kept_path = layout.result(KEPT, shard) if is_last else layout.passed(number, shard)
        with ExitStack() as stack:
            kept = stack.enter_context(appearing(kept_path))
            dropped = stack.enter_context(appearing(layout.dropped(number, shard)))
            if number == 0:
                flaws = stack.enter_context(appearing(layout.result(QUARANTINE, shard)))
                documents = self._read(Shard.from_json(text), shard, tally, flaws)
            else:
                documents = documents_in(layout.passed(number - 1, shard))
            settled = self._settled_scores(number, shard)
            for batch in self._batches(documents):
                left = self._through(current, batch, tally, columns, settled, dropped)
                kept.writelines(document_line(document) + "\n" for document in left)
                if is_last:
                    for document in left:
                        count(tally.kept, document.source)
                        tally.kept_characters += len(document.text)
        if current.scores is not None:
            save_arrays(layout.columns(number, shard), columns.arrays())
        if is_last:
            self._join_dropped(number, shard)
        write_json(layout.tally(number, shard), tally.as_table())

    def _read(self, shard: Shard, number: int, tally: Tally, flaws: TextIO) -> Iterator[Document]:
        domain = self.config.domain(shard.source)
        index = 0
        for found in self._reader.read(shard, self.config.sources[shard.source]):
            if isinstance(found, Flaw):
                count(tally.flaws, rule_of(found.reason))
                flaws.write(line_of(found.as_table()) + "\n")
                continue
            count(tally.read, shard.source)
            tally.read_characters += len(found.text)
            yield Document(
                id=found.id,
                source=shard.source,
                domain=domain,
                text=found.text,
                number=number << INDEX_BITS | index,
                metadata=found.metadata,
            )
            index += 1

    def _batches(self, documents: Iterable[Document]) -> Iterator[list[Document]]:
        batch: list[Document] = []
        size = 0
        for document in documents:
            batch.append(document)
            size += len(document.text)
            if size >= self.config.settings.batch_characters or len(batch) >= MAX_BATCH:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _through(
        self,
        current: Pass,
        batch: list[Document],
        tally: Tally,
        columns: _Columns,
        settled: dict[str, np.ndarray],
        dropped: TextIO,
    ) -> list[Document]:
        """The documents of a batch that a pass leaves."""
        if current.decides is not None:
            step = self.config.steps[current.decides]
            mine, others = _split(step, batch)
            rows = np.searchsorted(settled[NUMBERS], [document.number for document in mine])
            known = {n: a[rows] for n, a in settled.items() if not n.startswith("/")}
            batch = self._decide(current.decides, mine, others, known, tally, dropped)
        for number in current.runs:
            mine, others = _split(self.config.steps[number], batch)
            scores = self._score(number, mine)
            batch = self._decide(number, mine, others, scores, tally, dropped)
        if current.scores is not None:
            mine, _ = _split(self.config.steps[current.scores], batch)
            if mine:
                columns.scores.append(self._score(current.scores, mine))
                columns.documents += [(d.number, d.id, d.domain) for d in mine]
        return batch

    def _score(self, number: int, batch: list[Document]) -> Scores:
        if not batch:
            return {}
        scores = self.operators[number].score(batch)
        label = self.config.steps[number].label
        for name, values in scores.items():
            assert len(values) == len(batch), f"{label}.{name} has {len(values)} values"
            if values.ndim == 1 and values.dtype == np.float64:
                for document, value in zip(batch, values.tolist(), strict=True):
                    if value == value:  # not NaN
                        document.scores[f"{label}.{name}"] = value
        return scores

    def _decide(
        self,
        number: int,
        batch: list[Document],
        others: list[Document],
        scores: Scores,
        tally: Tally,
        dropped: TextIO,
    ) -> list[Document]:
        """Drop and change documents of a batch; those that stay, with the others, in order."""
        operator, step = self.operators[number], self.config.steps[number]
        counts = tally.operator(step.label)
        counts.seen += len(batch)
        counts.skipped += len(others)
        if not batch:
            return others
        decisions = operator.decide(batch, scores)
        assert len(decisions) == len(batch), f"{step.label} decided on {len(decisions)} documents"
        is_kept = np.array([not decision.reason for decision in decisions])
        for name, values in scores.items():
            if values.ndim == 1 and values.dtype == np.float64:
                counts.add_score(name, values, is_kept)
        n_samples = self.config.settings.samples
        left = list(others)
        for document, decision in zip(batch, decisions, strict=True):
            counts.seen_characters += len(document.text)
            if _apply(document, decision, step.label, counts, n_samples):
                left.append(document)
            else:
                dropped.write(document_line(document) + "\n")
        return sorted(left, key=lambda document: document.number) if others else left

    def _settled_scores(self, number: int, shard: int) -> dict[str, np.ndarray]:
        """The columns of the global operator that decides first, which takes its state over."""
        decides = self.passes[number].decides
        if decides is None:
            return {}
        if number not in self._settled:
            self._settled = {number: load_arrays(self.layout.state(number - 1))}
            self.operators[decides].restore(self._settled[number])
        return load_arrays(self.layout.columns(number - 1, shard))

    def _join_dropped(self, last: int, shard: int) -> None:
        """What all passes dropped of a shard, in one file."""
        with appearing(self.layout.result(DROPPED, shard)) as file:
            for number in range(last + 1):
                with self.layout.dropped(number, shard).open(
                    encoding="utf-8", newline="\n"
                ) as part:
                    shutil.copyfileobj(part, file)


def read_tally(path: Path) -> Tally:
    """What a shard's task counted."""
    return Tally.from_table(json.loads(path.read_text(encoding="utf-8")))


def _split(step: Step, batch: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Documents that an operator is for, and the others."""
    if not step.domains:
        return list(batch), []
    mine = [document for document in batch if document.domain in step.domains]
    return mine, [document for document in batch if document.domain not in step.domains]


def _apply(
    document: Document, decision: Decision, label: str, counts: OperatorTally, n_samples: int
) -> bool:
    """Note a decision in the document and the counts; whether the document stays."""
    if decision.reason:
        document.dropped_by, document.reason = label, decision.reason
        counts.dropped += 1
        counts.dropped_characters += len(document.text)
        count(counts.rules, rule_of(decision.reason))
        counts.add_sample(document, decision.reason, n_samples)
        return False
    if decision.text is not None:
        counts.edited += 1
        document.edits[label] = decision.edit or "changed"
        document.text = decision.text
    return True
