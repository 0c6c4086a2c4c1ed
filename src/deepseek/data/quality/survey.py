"""The scores of all documents at a global operator, gathered from the columns of the shards."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deepseek.data.quality.document import INDEX_BITS
from deepseek.data.quality.layout import Layout, load_arrays, texts_of_array
from deepseek.data.quality.operator import Survey
from deepseek.data.quality.runner import DOMAINS, IDS, NUMBERS


@contextlib.contextmanager
def survey_of(layout: Layout, number: int, n_shards: int) -> Iterator[Survey]:
    """All columns of a pass, in the order of the shards.

    The large ones are mapped from a file that is gone afterwards: memory holds what is looked at.
    """
    numbers, domains, names = [], [], dict[str, int]()
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    for shard in range(n_shards):
        columns = load_arrays(layout.columns(number, shard))
        numbers.append(columns.pop(NUMBERS))
        columns.pop(IDS)
        found = [names.setdefault(d, len(names)) for d in texts_of_array(columns.pop(DOMAINS))]
        domains.append(np.array(found, np.int32))
        shapes |= {name: (array.shape[1:], array.dtype) for name, array in columns.items()}
    total = sum(map(len, numbers))
    with tempfile.TemporaryDirectory(dir=layout.work) as folder:
        scores = {
            name: np.memmap(Path(folder) / str(i), kind, "w+", shape=(max(1, total), *shape))
            for i, (name, (shape, kind)) in enumerate(shapes.items())
        }
        start = 0
        for shard in range(n_shards):
            columns = load_arrays(layout.columns(number, shard))
            end = start + len(columns[NUMBERS])
            for name, array in scores.items():
                if end > start:
                    array[start:end] = columns[name]
            start = end

        def ids(wanted: Sequence[int]) -> list[str]:
            return _ids(layout, number, wanted)

        yield Survey(
            numbers=np.concatenate([np.zeros(0, np.int64), *numbers]),
            domains=tuple(names),
            domain=np.concatenate([np.zeros(0, np.int32), *domains]),
            scores={name: array[:total] for name, array in scores.items()},
            ids=ids,
        )


def _ids(layout: Layout, number: int, wanted: Sequence[int]) -> list[str]:
    """Identifiers of documents by their numbers; each shard is opened once."""
    found: dict[int, str] = {}
    for shard in sorted({n >> INDEX_BITS for n in wanted}):
        columns = load_arrays(layout.columns(number, shard))
        texts = texts_of_array(columns[IDS])
        mine = np.array(sorted({n for n in wanted if n >> INDEX_BITS == shard}))
        for n, row in zip(mine, np.searchsorted(columns[NUMBERS], mine), strict=True):
            found[int(n)] = texts[row]
    return [found[int(n)] for n in wanted]
