"""Attention's fast paths against the float64 definition, on fresh shapes."""

import pytest
import torch

from deepseek.ops.attention import (
    attention,
    attention_part,
    attention_reference,
    causal_mask,
    merge_parts,
)

Qkv = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SHAPES = (  # batch, query heads, key/value heads, queries, keys, head width
    (1, 4, 4, 7, 7, 16),
    (1, 9, 3, 65, 65, 64),
    (2, 12, 2, 33, 130, 128),
    (1, 6, 1, 512, 1_100, 32),
    (1, 8, 2, 2, 2_049, 64),
    (3, 4, 2, 1, 50, 32),
    (1, 12, 2, 1, 1, 128),
    (1, 9, 3, 1, 3_000, 64),
)


def random_qkv(shape: tuple[int, ...], dtype: torch.dtype) -> Qkv:
    batch, n_heads, n_groups, n_queries, n_keys, width = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def fresh(heads: int, rows: int) -> torch.Tensor:
        return torch.randn(batch, heads, rows, width, generator=generator).to(dtype)

    return fresh(n_heads, n_queries), fresh(n_groups, n_keys), fresh(n_groups, n_keys)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_equals_the_definition(shape: tuple[int, ...], dtype: torch.dtype, bound: float) -> None:
    q, k, v = random_qkv(shape, dtype)
    wanted = attention_reference(q.double(), k.double(), v.double())
    got = attention(q, k, v)
    assert got.dtype is dtype
    assert (got.double() - wanted).abs().max() < bound


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_is_softmax_over_the_past(shape: tuple[int, ...]) -> None:
    """One head and one query at a time, by hand."""
    q, k, v = random_qkv(shape, torch.float64)
    whole = attention_reference(q, k, v)
    n_queries, n_keys = q.shape[2], k.shape[2]
    group = q.shape[1] // k.shape[1]
    for head in {0, q.shape[1] - 1}:
        for query in {0, n_queries - 1}:
            seen = n_keys - n_queries + query + 1
            keys, values = k[0, head // group, :seen], v[0, head // group, :seen]
            weights = (keys @ q[0, head, query] / q.shape[-1] ** 0.5).softmax(0)
            torch.testing.assert_close(whole[0, head, query], weights @ values)


def test_the_future_changes_nothing() -> None:
    q, k, v = random_qkv((1, 4, 2, 20, 60, 16), torch.float32)
    before = attention(q, k, v)
    k[:, :, 50:], v[:, :, 50:] = 100.0, -100.0  # seen by the last ten queries only
    after = attention(q, k, v)
    assert torch.equal(before[:, :, :10], after[:, :, :10])
    assert not torch.allclose(before[:, :, 10:], after[:, :, 10:])


def test_training_through_a_chunk_has_the_gradient_of_the_definition() -> None:
    qkv = [x.requires_grad_() for x in random_qkv((1, 4, 2, 5, 12, 16), torch.float64)]
    got = torch.autograd.grad(attention(*qkv).square().sum(), qkv)
    wanted = torch.autograd.grad(attention_reference(*qkv).square().sum(), qkv)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_mask() -> None:
    mask = causal_mask(2, 4, torch.device("cpu"))
    assert mask.tolist() == [[True, True, True, False], [True, True, True, True]]


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_merge_to_the_whole(shape: tuple[int, ...]) -> None:
    """Keys cut in two, both unmasked, against all keys at once, by the definition."""
    batch, n_heads, n_groups, n_queries, n_keys, width = shape
    q, k, v = random_qkv((batch, n_heads, n_groups, n_queries, n_keys + 3, width), torch.float32)
    cut = 1 + n_keys // 3
    first = attention_part(q, k[:, :, :cut], v[:, :, :cut])
    mixed, mass = merge_parts(*first, *attention_part(q, k[:, :, cut:], v[:, :, cut:]))
    group = n_heads // n_groups
    scores = q.double() @ k.double().repeat_interleave(group, 1).transpose(-1, -2) / width**0.5
    wanted = scores.softmax(-1) @ v.double().repeat_interleave(group, 1)
    torch.testing.assert_close(mixed.double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(mass.double(), scores.logsumexp(-1), atol=1e-4, rtol=0)


def test_masked_keys_count_for_nothing() -> None:
    q, k, v = random_qkv((3, 6, 2, 5, 40, 32), torch.float32)
    lengths = torch.tensor([1, 17, 40])
    mask = torch.arange(40) < lengths[:, None]
    mixed, mass = attention_part(q, k, v, key_mask=mask)
    for line, n in enumerate(lengths.tolist()):
        one = slice(line, line + 1)
        alone = attention_part(q[one], k[one, :, :n], v[one, :, :n])
        torch.testing.assert_close(mixed[one], alone[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(mass[one], alone[1], atol=1e-5, rtol=0)
