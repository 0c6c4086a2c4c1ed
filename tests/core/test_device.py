from collections.abc import Iterator

import pytest
import torch

from deepseek.core import device
from deepseek.core.device import DTYPES, choose_compute
from deepseek.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_auto_resolves_with_reasons() -> None:
    compute = choose_compute()
    assert compute.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert compute.dtype in DTYPES.values()
    assert compute.n_threads == torch.get_num_threads() >= 1
    for part in (compute.dtype_reason, compute.threads_reason, str(compute.device)):
        assert part
        assert part in compute.describe()


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_that_was_asked_for_is_taken(name: str) -> None:
    compute = choose_compute("cpu", name, 1)
    assert (compute.dtype, compute.dtype_reason) == (DTYPES[name], "as requested")
    assert compute.threads_reason == "as requested"
    assert torch.get_num_threads() == 1
    assert name in compute.describe()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_the_processor_decides_about_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    compute = choose_compute("cpu")
    assert compute.dtype is expected
    assert "bfloat16 instructions" in compute.dtype_reason


@pytest.mark.parametrize("bfloat16", [True, False])
def test_the_gpu_decides_about_bfloat16(monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bfloat16)
    assert choose_compute().dtype is (torch.bfloat16 if bfloat16 else torch.float16)
    assert choose_compute("cuda:1").device == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="device is 'cuda:2', and torch sees 2 GPUs"):
        choose_compute("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees 0 GPUs"):
        choose_compute(name)


@pytest.mark.parametrize("name", ["", "gpu", "meta", "cpu:x", "xla", "cuda:-1"])
def test_an_unknown_device_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{name}'") as caught:
        choose_compute(name)
    assert "cuda:N" in caught.value.hint


@pytest.mark.parametrize("name", ["", "int4", "Float32", "half"])
def test_an_unknown_dtype_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"dtype is '{name}'") as caught:
        choose_compute("cpu", name)
    assert "bfloat16" in caught.value.hint


def test_bfloat16_is_read_from_this_processor() -> None:
    assert device.has_fast_bfloat16() in (True, False)


def test_int8_is_a_way_to_multiply_and_keeps_the_best_dtype_for_the_rest() -> None:
    compute = choose_compute(device="cpu", dtype="int8")
    assert compute.quantised
    assert compute.dtype is choose_compute(device="cpu").dtype
    assert "int8 (as requested)" in compute.describe()
    assert not choose_compute(device="cpu", dtype="float32").quantised
