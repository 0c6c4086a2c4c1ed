"""Files written tensor by tensor: read by others, whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepseek.core.errors import CheckpointError
from deepseek.weights.tensor_file import write_tensor_file

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b.weight": torch.randn(3, 5).bfloat16(),
    "c": torch.tensor([True, False, True]),
    "d": torch.empty(0, 4),
}
LAYOUT = {name: (t.dtype, tuple(t.shape)) for name, t in TENSORS.items()}


def test_the_library_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "model.safetensors"
    write_tensor_file(file, LAYOUT, TENSORS.items())
    found = load_file(file)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert found.keys() == TENSORS.keys()


def test_tensors_are_converted(tmp_path: Path) -> None:
    transposed = torch.randn(4, 3, dtype=torch.float64).T
    layout = {"x": (torch.bfloat16, (3, 4))}
    write_tensor_file(tmp_path / "x", layout, [("x", transposed)])
    assert torch.equal(load_file(tmp_path / "x")["x"], transposed.bfloat16())


@pytest.mark.parametrize(
    "tensors",
    [
        [("a", TENSORS["a"])],
        [("b.weight", TENSORS["b.weight"]), ("a", TENSORS["a"])],
        [("a", TENSORS["a"].T)],
        [*TENSORS.items(), ("e", TENSORS["a"])],
    ],
)
def test_what_was_not_announced_leaves_nothing(
    tensors: list[tuple[str, torch.Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"in place of|never came"):
        write_tensor_file(tmp_path / "x", LAYOUT, tensors)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot write"):
        write_tensor_file(tmp_path / "taken" / "x", LAYOUT, TENSORS.items())
    huge = {"x": (torch.float32, (1 << 24, 1 << 22))}
    with pytest.raises(CheckpointError, match="cannot write"):
        write_tensor_file(tmp_path / "x", huge, [])
