"""Gates and experts in the compiled library against their definitions, at each instruction set."""

import ctypes
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.gate import UNKNOWN, Gate, Routing
from deepseek.ops import native
from deepseek.ops.moe.gate import Choice
from deepseek.ops.moe.low_rank import low_rank_reference
from deepseek.ops.moe.native import GateStruct, NativeExperts, library
from deepseek.ops.moe.neurons import neurons_reference

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
SCALE = 2.0
SIZES = ([4, 1, 16, 33, 7], [16] * 16, [8, 24, 2, 5, 40, 16, 9])
N_TOKENS = (1, 9, 150)


@dataclass
class Mixture:
    """Random stacked tensors and a choice: ragged experts, some without tokens, empty slots."""

    x: Tensor
    choice: Choice
    sizes: list[int]
    down: list[Tensor]
    up: list[Tensor]
    y: Tensor

    def low_rank(self, dtype: torch.dtype) -> NativeExperts:
        first, second = ([t.to(dtype) for t in side] for side in (self.down, self.up))
        return NativeExperts(self.sizes, first, second, scale=SCALE, is_low_rank=True)

    def wanted(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """In float64 of numbers in some format."""
        x, y = (t.to(dtype).double() for t in (self.x, self.y))
        parts = torch.split(y, [t.shape[1] for t in self.up], 1)
        matrices = [
            (a.to(dtype).double(), b.to(dtype).double())
            for a, b in zip(self.down, self.up, strict=True)
        ]
        rows = [
            low_rank_reference(x, part, self.choice, self.sizes, pair, SCALE)
            for part, pair in zip(parts, matrices, strict=True)
        ]
        return torch.cat(rows, 1)


def mixture_of(
    seed: int, sizes: list[int], n_tokens: int, n_in: int = 48, n_outs: tuple[int, ...] = (80, 112)
) -> Mixture:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32)

    total, n_experts = sum(sizes), len(sizes)
    n_slots = min(n_experts, 1 + seed % 3)
    experts = torch.rand(n_tokens, n_experts + 1, generator=generator).argsort(1)[:, :n_slots]
    if n_experts > 2:
        experts[experts == 1] = n_experts  # nobody; the second expert gets no token
    weights = torch.rand(n_tokens, n_slots, generator=generator)
    return Mixture(
        x=draw(n_tokens, n_in),
        choice=Choice(experts.contiguous(), weights),
        sizes=sizes,
        down=[draw(total, n_in) / n_in**0.5 for _ in n_outs],
        up=[draw(total, n) for n in n_outs],
        y=draw(n_tokens, sum(n_outs)),
    )


@pytest.mark.parametrize("n_tokens", N_TOKENS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("n_outs", [(80, 112), (16,)], ids=str)
def test_low_rank_experts_add_what_the_definition_says(
    level: str, sizes: list[int], n_tokens: int, n_outs: tuple[int, ...]
) -> None:
    case = mixture_of(len(sizes), sizes, n_tokens, n_outs=n_outs)
    native.use_threads(2)
    got = case.low_rank(torch.float32).add(case.x, case.y.clone(), case.choice)
    torch.testing.assert_close(got.double(), case.wanted(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_tokens", N_TOKENS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_low_rank_experts_in_bfloat16(level: str, sizes: list[int], n_tokens: int) -> None:
    case = mixture_of(len(sizes), sizes, n_tokens)
    x, y = case.x.bfloat16(), case.y.bfloat16()
    got = case.low_rank(torch.bfloat16).add(x, y.clone(), case.choice)
    wanted = case.wanted(torch.bfloat16)
    assert got.dtype is torch.bfloat16
    # Inner numbers are rounded once, sums once for each slot, by 2^-9 of their size at most.
    errors = (got.double() - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(errors.max()) < 5e-3


def swiglu_case(seed: int, sizes: list[int], n_tokens: int) -> tuple[Mixture, Tensor, Tensor]:
    case = mixture_of(seed, sizes, n_tokens, n_outs=(48,))
    generator = torch.Generator().manual_seed(seed + 1)
    gate_up = torch.randn(2 * sum(sizes), case.x.shape[1], generator=generator) / 5
    return case, gate_up, case.up[0]


@pytest.mark.parametrize("n_tokens", N_TOKENS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_swiglu_experts(level: str, sizes: list[int], n_tokens: int) -> None:
    case, gate_up, down = swiglu_case(len(sizes), sizes, n_tokens)
    native.use_threads(2)
    experts = NativeExperts(sizes, (gate_up,), (down,), is_low_rank=False)
    wide = (gate_up.double(), down.double())
    wanted = neurons_reference(case.x.double(), case.choice, sizes, wide)
    got = experts.run(case.x, case.choice).double()
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)

    half = NativeExperts(sizes, (gate_up.bfloat16(),), (down.bfloat16(),), is_low_rank=False)
    x = case.x.bfloat16()
    wide = (gate_up.bfloat16().double(), down.bfloat16().double())
    wanted = neurons_reference(x.double(), case.choice, sizes, wide)
    got = half.run(x, case.choice)
    assert got.dtype is torch.bfloat16
    assert float((got.double() - wanted).norm()) < 6e-3 * float(wanted.norm()) + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_company_changes_a_bit(level: str, dtype: torch.dtype) -> None:
    """A row alone, among others, in another place, and with any number of threads."""
    case, gate_up, down = swiglu_case(7, SIZES[2], 150)
    low_rank, x, y = case.low_rank(dtype), case.x.to(dtype), case.y.to(dtype)
    neurons = NativeExperts(case.sizes, (gate_up.to(dtype),), (down.to(dtype),), is_low_rank=False)
    native.use_threads(2)
    added, run = low_rank.add(x, y.clone(), case.choice), neurons.run(x, case.choice)
    for rows in (slice(0, 1), slice(149, 150), slice(3, 20), slice(10, 140)):
        native.use_threads(1 + rows.start % 3)
        part = Choice(case.choice.experts[rows], case.choice.weights[rows])
        assert torch.equal(low_rank.add(x[rows], y[rows].clone(), part), added[rows])
        assert torch.equal(neurons.run(x[rows], part), run[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_zero_changes_no_bit(level: str, dtype: torch.dtype) -> None:
    case = mixture_of(3, SIZES[0], 40)
    case.up = [torch.zeros_like(up) for up in case.up]
    y = case.y.to(dtype)
    assert torch.equal(case.low_rank(dtype).add(case.x.to(dtype), y.clone(), case.choice), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    case, gate_up, down = swiglu_case(4, SIZES[2], 1)
    first, second = case.low_rank(dtype).unpack()
    kept = [t.to(dtype) for t in (*case.down, *case.up)]
    assert all(torch.equal(a, b) for a, b in zip((*first, *second), kept, strict=True))
    sides = ([gate_up.to(dtype)], [down.to(dtype)])
    experts = NativeExperts(case.sizes, *sides, is_low_rank=False)
    for found, wanted in zip(experts.unpack(), sides, strict=True):
        assert torch.equal(found[0], wanted[0])
    assert experts.n_bytes >= sum(t.nbytes for side in sides for t in side)


def test_nothing_to_do_is_fine() -> None:
    case, gate_up, down = swiglu_case(5, SIZES[0], 0)
    neurons = NativeExperts(case.sizes, (gate_up,), (down,), is_low_rank=False)
    none = Choice(torch.empty(3, 0, dtype=torch.int64), torch.empty(3, 0))
    x, y = torch.randn(3, 48), torch.randn(3, 48)
    assert torch.equal(neurons.run(x, none), torch.zeros(3, 48))
    assert torch.equal(case.low_rank(torch.float32).add(x, y.clone(), none), y)
    assert case.low_rank(torch.float32).add(case.x, case.y, case.choice).shape == (0, 48)


def test_what_does_not_fit_is_refused() -> None:
    case = mixture_of(2, SIZES[0], 4)
    experts = case.low_rank(torch.float32)
    for wrong in (-1, len(case.sizes) + 1, 1 << 40):
        choice = Choice(case.choice.experts.clone(), case.choice.weights)
        choice.experts[2, 0] = wrong
        with pytest.raises(ValueError, match="experts"):
            experts.add(case.x, case.y, choice)
    for x, y in (
        (case.x[1:], case.y[1:]),
        (case.x[:, 16:], case.y),
        (case.x, case.y[:, 16:].contiguous()),
        (case.x.bfloat16(), case.y),
    ):
        with pytest.raises(ValueError, match="experts"):
            experts.add(x, y, case.choice)
    for first, second in (
        ([case.down[0][1:]], [case.up[0]]),
        ([case.down[0]], [case.up[0].bfloat16()]),
        ([case.down[0][:, 1:]], [case.up[0]]),
        ([case.down[0]], [case.up[0][:, 3:]]),
        ([case.down[0].double()], [case.up[0].double()]),
    ):
        with pytest.raises(ValueError, match="experts"):
            NativeExperts(case.sizes, first, second, is_low_rank=True)


GROUPS = (
    ExpertGroup(name="general", sizes=(4, 4), always=True),
    ExpertGroup(name="text", sizes=(2, 6, 3)),
    ExpertGroup(name="code", sizes=(8, 1, 5)),
    ExpertGroup(name="more", sizes=(8,)),
)
PLAIN = MoEConfig(form="low_rank", groups=GROUPS)
EVEN = (ExpertGroup(name="a", sizes=(24,) * 8), ExpertGroup(name="b", sizes=(24,) * 4))
GATES: dict[str, MoEConfig] = {
    "two": PLAIN,
    "one": replace(PLAIN, n_active_experts=1),
    "all": replace(PLAIN, n_active_experts=9),
    "domains": replace(PLAIN, n_domains=1, n_active_experts=3),
    "two domains": replace(PLAIN, n_domains=2, n_active_experts=6),
    "budget": replace(PLAIN, budget=0.8),
    "budget of a domain": replace(PLAIN, budget=1.5, n_domains=1, n_active_experts=5),
    "slices": MoEConfig(form="slices", groups=GROUPS, shared=8, budget=1.0),
    "parts": MoEConfig(form="full", parts=2, groups=EVEN, n_active_experts=4),
    "many": MoEConfig(form="full", groups=(ExpertGroup(name="a", sizes=(1,) * 70),)),
}


def gate_of(config: MoEConfig, seed: int = 0, d_model: int = 96) -> Gate:
    gate = Gate(config, d_model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*gate.parameters(), gate.bias):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
        if gate.null_bias is not None:
            gate.null_bias.fill_(0.1)
    return gate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("config", GATES.values(), ids=GATES)
@torch.no_grad()
def test_gates_choose_as_torch_does(
    level: str, config: MoEConfig, labels: bool, dtype: torch.dtype
) -> None:
    gate, n = gate_of(config), 130
    x = torch.randn(n, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    domains = torch.arange(n) % (len(config.groups) + 1) + UNKNOWN if labels else None
    native.use_threads(2)
    got = gate.native.choose(x, gate.tensors, domains)
    counted = gate.load.clone()
    gate.load.zero_()
    gate.train()  # computes in torch
    wanted = gate(x, Routing(torch.zeros(n, dtype=torch.int64), domains))
    assert torch.equal(got.experts, wanted.experts)
    torch.testing.assert_close(got.weights, wanted.weights, atol=1e-6, rtol=1e-5)
    assert torch.equal(counted, gate.load)
    if config.budget is not None:
        assert (got.experts == config.n_experts).any()
    one = gate.native.choose(x[:1], gate.tensors, None if domains is None else domains[:1])
    assert torch.equal(one.weights, got.weights[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", [1, 130])
@torch.no_grad()
def test_choosing_and_adding_in_one_call(level: str, n_tokens: int, dtype: torch.dtype) -> None:
    config = GATES["budget of a domain"]
    gate, case = gate_of(config), mixture_of(1, list(config.sizes), n_tokens, n_in=96)
    experts, x, y = case.low_rank(dtype), case.x.to(dtype), case.y.to(dtype)
    domains = torch.arange(n_tokens) % 4
    native.use_threads(2)
    for labels in (None, domains):
        wanted = gate.native.choose(x, gate.tensors, labels)
        counted = gate.load.clone()
        added = y.clone()
        got = experts.route((gate.native, gate.tensors), x, added, labels)
        assert torch.equal(got.experts, wanted.experts)
        assert torch.equal(got.weights, wanted.weights)
        assert torch.equal(added, experts.add(x, y.clone(), wanted))
        assert torch.equal(gate.load, 2 * counted)
        gate.load.zero_()
    for other in (gate_of(GATES["many"]), gate_of(config, d_model=80)):
        with pytest.raises(ValueError, match="experts"):
            experts.route((other.native, other.tensors), x, y)
    with pytest.raises(ValueError, match="experts"):
        experts.route((gate.native, gate.tensors), x, y, domains + 4)


def test_wrong_gates_are_refused() -> None:
    config = GATES["two"]
    gate = gate_of(config)
    x, found = torch.zeros(2, 96), library()
    out = torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2)

    def call(domains: Tensor | None = None, dtype: int = 0, **changed: Any) -> int:
        struct = gate.native.shown(gate.tensors)
        for name, value in changed.items():
            setattr(struct, name, value)
        places = x.data_ptr(), None if domains is None else domains.data_ptr()
        return int(
            found.ds_gate_choose(
                ctypes.byref(struct), dtype, 2, *places, *(t.data_ptr() for t in out)
            )
        )

    assert call() == 0
    rules = {
        name: getattr(gate.native.shown(gate.tensors), name) for name, _ in GateStruct._fields_
    }
    for name, wrong in (
        ("d_model", 95),
        ("d_model", -16),
        ("n_experts", 8),
        ("n_experts", 5_000),
        ("n_active", 10),
        ("n_active", -1),
        ("n_parts", 0),
        ("n_parts", 3),
        ("n_groups", 0),
        ("n_groups", 10),
        ("n_domains", 5),
        ("kind", 3),
        ("bounds", None),
        ("always", None),
        ("weight", None),
        ("bias", None),
    ):
        assert call(**{name: wrong}), (name, wrong)
        call(**rules)
    assert call(dtype=2)
    assert call(domains=torch.tensor([0, 4]))
    assert call(domains=torch.tensor([-2, 0]))
    assert call(domains=torch.tensor([-1, 3])) == 0
