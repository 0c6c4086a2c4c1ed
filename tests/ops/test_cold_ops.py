"""Keys and values in 8 and 4 bits: how far numbers move, and which are seen so."""

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.ops.cold import (
    ColdBits,
    ColdTier,
    choose_tier,
    cold_keys,
    cold_values,
    page_bytes,
    quantise,
    quantise_keys,
    quantise_values,
)
from deepseek.ops.hierarchical import PAGE


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_no_number_moves_by_more_than_half_a_step(bits: ColdBits, scale: float) -> None:
    x = (random(50, 3, 64).float() * scale).bfloat16()
    found = quantise(x, -1, bits)
    numbers, step = found.numbers().float(), found.step.float()
    rounding = numbers.abs() / 256
    assert ((numbers - x.float()).abs() <= step * 0.5001 + rounding).all()
    span = (x.amax(-1, keepdim=True).float() - found.least.float()) / ((1 << bits) - 1)
    assert torch.equal(found.least, x.amin(-1, keepdim=True)), "the least number is exact"
    assert (step >= span * 0.999_999).all()
    assert (step <= span * (1 + 1 / 64)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_what_does_not_change_is_exact(bits: ColdBits) -> None:
    x = random(2, 5, 1).expand(2, 5, 64).contiguous()
    assert torch.equal(quantise(x, -1, bits).numbers(), x)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_bias_of_keys_costs_nothing(bits: ColdBits) -> None:
    """But that bfloat16 holds large numbers less well."""
    keys = random(2, 3 * PAGE, 32)
    bias = 64 * random(32, seed=1).sign()
    biased = (keys + bias).bfloat16()
    without = (cold_keys(keys, bits) - keys).float().square().mean().sqrt()
    with_it = (cold_keys(biased, bits) - biased).float().square().mean().sqrt()
    assert with_it < without + 0.25, "a quarter is half the distance of numbers at 64"
    apart = quantise(biased, -1, bits).numbers() - biased  # by position, as values are
    assert apart.float().square().mean().sqrt() > 5 * with_it


@pytest.mark.parametrize("bits", [4, 8])
def test_an_outlier_of_one_position_stays_among_its_own(bits: ColdBits) -> None:
    values = random(PAGE, 96)
    loud = values.clone()
    loud[7] *= 100
    quiet = torch.arange(PAGE) != 7
    assert torch.equal(cold_values(loud, bits)[quiet], cold_values(values, bits)[quiet])
    assert [part.codes.shape[-1] for part in quantise_values(values, bits)] == [64, 32]


def test_pages_do_not_share_ranges() -> None:
    keys = random(4 * PAGE, 32)
    alone = cold_keys(keys[PAGE : 2 * PAGE], 4)
    assert torch.equal(cold_keys(keys, 4)[PAGE : 2 * PAGE], alone)
    assert quantise_keys(keys, 4).least.shape == (4, 1, 32)


def test_bytes() -> None:
    """72 and 136 for a position's key and value of one head, 64 wide; 256 in bfloat16."""
    assert 2 * page_bytes(4, 64) == 72 * PAGE
    assert 2 * page_bytes(8, 64) == 136 * PAGE
    assert page_bytes(4, 96) == 96 * PAGE // 2 + 2 * PAGE * 4


def test_which_positions_are_seen_so() -> None:
    tier = ColdTier(bits=4, sinks=64, window=128)
    exact = torch.zeros(10 * PAGE, 1)
    cold = torch.ones(9 * PAGE, 1)
    for page, wanted in ((0, []), (2, []), (3, []), (4, [1]), (9, [1, 2, 3, 4, 5, 6])):
        seen = tier.seen(page, exact[: (page + 1) * PAGE], cold)
        pages = torch.unflatten(seen[:, 0], 0, (-1, PAGE)).amax(1)
        assert pages.nonzero().flatten().tolist() == wanted


def test_wrong_settings() -> None:
    assert choose_tier("bfloat16") is None
    tier = choose_tier("int4")
    assert tier is not None
    assert (tier.bits, tier.window) == (4, 512)
    assert "int4" in tier.describe()
    with pytest.raises(ConfigError, match="kept in fp8"):
        choose_tier("fp8")
    for wrong in ({"window": 100}, {"sinks": -64}, {"slack": 1 << 30}):
        with pytest.raises(ConfigError, match="cold tier"):
            ColdTier(bits=8, **wrong)  # type: ignore[arg-type]
