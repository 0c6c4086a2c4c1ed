"""One interface over GGUF files and safetensors folders, in Hugging Face's names."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.core.codes import Codes
from deepseek.core.errors import CheckpointError


@runtime_checkable
class WeightSource(Protocol):
    """An open checkpoint. Tensors are read when asked for; the file stays on disk."""

    @property
    def metadata(self) -> dict[str, Any]:
        """GGUF's key-value pairs; empty for safetensors."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder with `tokenizer.json`; None for GGUF."""
        ...

    @property
    def n_bytes(self) -> int:
        """Bytes of the weight files."""
        ...

    def formats(self) -> dict[str, int]:
        """Bytes of the tensors by the format they are stored in, the largest first."""
        ...

    def config(self) -> dict[str, Any]:
        """The model's shape under the names of Hugging Face's `config.json`."""
        ...

    def names(self) -> list[str]:
        """Tensor names, e.g. `model.layers.0.self_attn.q_proj.weight`."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        ...

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A whole tensor as numbers."""
        ...

    def has_codes(self, name: str) -> bool:
        """Whether a matrix is stored as whole numbers with scales."""
        ...

    def codes(self, name: str, first: int, n_rows: int) -> Codes:
        """Some rows of such a matrix, nothing rounded."""
        ...

    def rows(self, name: str, ids: Int[Tensor, " N"], dtype: torch.dtype) -> Float[Tensor, "N D"]:
        """Some rows of a matrix, read straight from the file."""
        ...

    def release(self) -> None:
        """Give back the memory of file pages read so far."""
        ...


def describe_formats(source: WeightSource) -> str:
    """How the weights are stored, e.g. `Q4_K 71 %, Q6_K 28 %`; scores are quoted with it."""
    formats = source.formats()
    total = sum(formats.values()) or 1
    shares = {name: round(100 * size / total) for name, size in formats.items()}
    return ", ".join(f"{name} {share} %" for name, share in shares.items() if share) or "empty"


def largest_first(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Add up sizes by name."""
    total: Counter[str] = Counter()
    for name, size in sizes:
        total[name] += size
    return dict(total.most_common())


def open_weights(path: Path) -> WeightSource:
    """Open a GGUF file or a folder with safetensors, checking its structure.

    Raises:
        CheckpointError: It is neither, damaged, or hostile.
    """
    if path.is_dir():
        from deepseek.weights.safetensors import SafetensorsFolder

        return SafetensorsFolder(path)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist", "name a GGUF file, a folder, or see deepseek models"
        )
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path} is one file of a checkpoint", "name its folder, with config.json inside"
        )
    from deepseek.weights.gguf import GGUFFile

    return GGUFFile(path)
