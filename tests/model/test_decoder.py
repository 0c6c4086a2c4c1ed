"""All layers in one native call against the same products layer by layer through torch."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from deepseek.model.cache import DenseCache
from deepseek.model.checkpoint import load_model
from deepseek.model.decoder import NativeDecoder, can_decode
from deepseek.model.pages import PagedSequence, PagePool
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE
from deepseek.weights.source import open_weights
from tiny_checkpoint import tiny_config, tiny_model

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
CPU = torch.device("cpu")
N_PROMPT, N_NEW = 300, 12
"""More keys than a page has."""


class RoundedCache(DenseCache):
    """Float32 throughout, but what it keeps is rounded as a bfloat16 cache would."""

    def append(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return super().append(layer, k.bfloat16().float(), v.bfloat16().float())


def quantised(path: Path) -> Transformer:
    """The matrices in 8-bit products, everything else in float32."""
    return load_model(open_weights(path), dtype=torch.float32, quantised=True)


def first_layers(model: Transformer, n_layers: int) -> Transformer:
    """The beginning of a model, sharing its weights."""
    part = copy.copy(model)
    part._modules = dict(model._modules)
    part.config = dataclasses.replace(model.config, n_layers=n_layers)
    part.blocks = torch.nn.ModuleList(list(model.blocks)[:n_layers])
    return part


def keep(sequence: PagedSequence, pool: PagePool, exact: DenseCache, place: int) -> None:
    """Copy one position of an exact cache, in the library's own order."""
    new = sequence.extend(1)
    page, row = new.pages[place // PAGE], place % PAGE
    for layer, (keys, values) in enumerate(zip(*pool.pages.of(page), strict=True)):
        key, value = (t[0, :, place].bfloat16() for t in exact.read(layer))
        n_groups, width = key.shape
        as_pairs = keys.view(n_groups, width // 2, PAGE, 2)
        as_pairs[:, :, row] = key.view(n_groups, -1, 2)
        slices = values.view(n_groups, -1, PAGE // 2, 64, 2)
        if row == 0:
            slices.zero_()
        slices[:, :, row // 2, :, row % 2] = value.view(n_groups, -1, 64)
    sequence.advance(1)


@torch.inference_mode()
def differences(model: Transformer) -> torch.Tensor:
    """Relative difference of what the last block returns, for each of some new tokens."""
    assert can_decode(model)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(100, 10_000, (1, N_PROMPT + N_NEW), generator=generator)
    exact = RoundedCache(model.config, dtype=torch.float32, device=CPU)
    wanted = model.hidden_states(ids, exact)[0, N_PROMPT:]
    decoder = NativeDecoder(model)
    sequence = PagedSequence(decoder.pool)
    rows = []
    for place in range(N_PROMPT + N_NEW):
        # One token's difference is not the next one's: what came before is put there exactly.
        if place >= N_PROMPT:
            rows.append(decoder.run([[int(ids[0, place])]], [sequence])[0])
            assert sequence.length == place + 1
            sequence.truncate(place)
        keep(sequence, decoder.pool, exact, place)
    got = torch.stack(rows)
    return (got - wanted).norm(dim=1) / wanted.norm(dim=1)


def compare(model: Transformer) -> None:
    """The same arithmetic, but that queries and weights are rounded to bfloat16.

    Where a number lies between two 8-bit steps, a small difference decides which it becomes, and
    later layers carry that on: single tokens differ by a step, and depth adds up.
    """
    one = differences(first_layers(model, 1))
    assert float(one.median()) < 0.01
    assert float(one.max()) < 0.03
    assert float(differences(model).max()) < 0.1


@pytest.mark.weights
def test_llama(smollm2_path: Path) -> None:
    model = quantised(smollm2_path)
    native.use_threads(2)
    compare(model)


@pytest.mark.large
def test_qwen2_with_biases(qwen_path: Path) -> None:
    compare(quantised(qwen_path))


def test_a_model_of_plain_numbers_is_left_to_torch() -> None:
    assert not can_decode(tiny_model(tiny_config()))
