"""Small token files for tests: document d of a source holds numbers that name it."""

from collections.abc import Sequence
from pathlib import Path

from deepseek.data.token_file import EncodedDocument, TokenFile, write_token_file

END = 0


def write_source(folder: Path, name: str, lengths: Sequence[int], base: int = 1_000) -> TokenFile:
    """Documents of some lengths; token t of document d is `base * (d + 1) + t`, the last `END`."""
    documents = [
        EncodedDocument([*(base * (d + 1) + t for t in range(n - 1)), END], 3 * n, float(d))
        for d, n in enumerate(lengths)
    ]
    return write_token_file(folder / f"{name}.tokens", documents)
