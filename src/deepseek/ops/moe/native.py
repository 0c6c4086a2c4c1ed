"""Gates and experts in the compiled library; what they compute is defined in `gate`, `low_rank` and
`neurons`. No gradients."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.ops import native
from deepseek.ops.moe.gate import Choice
from deepseek.ops.native import DTYPES, PROBLEMS

TILE = 16
"""Widths come in multiples of it."""
KINDS = ("shares", "scores", "ones")
"""What weights are: scores divided by their sum, scores as they are, or 1."""
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


class GateStruct(ctypes.Structure):
    """`ds_gate`."""

    _fields_ = (
        *((name, _SIZE) for name in "d_model n_experts n_active n_parts n_groups".split()),
        *((name, _SIZE) for name in "n_domains kind".split()),
        *((name, _POINTER) for name in "bounds always weight bias null_row null_bias load".split()),
    )


class ChoiceStruct(ctypes.Structure):
    """`ds_choice`."""

    _fields_ = (
        ("n_rows", _SIZE),
        ("n_slots", _SIZE),
        ("experts", _POINTER),
        ("weights", _POINTER),
    )


class GateTensors(NamedTuple):
    """What a gate reads, in float32, and the loads that it adds to."""

    weight: Float[Tensor, "E D"]
    bias: Float[Tensor, " E"]
    load: Int[Tensor, "N F"] | None
    """None: loads are not wanted."""
    null: Float[Tensor, " D"] | None = None
    null_bias: Float[Tensor, " 1"] | None = None


class NativeGate:
    """The rules of a gate, ready for calls."""

    def __init__(
        self,
        *,
        n_active: int,
        n_parts: int,
        n_domains: int,
        kind: str,
        bounds: Sequence[tuple[int, int]],
        always: Sequence[int],
        d_model: int,
    ) -> None:
        starts = [a for a, _ in bounds] + [bounds[-1][1]]
        self._bounds = (_SIZE * len(starts))(*starts)
        self._always = (_SIZE * len(bounds))(*(g in always for g in range(len(bounds))))
        rules = d_model, starts[-1], n_active, n_parts, len(bounds), n_domains, KINDS.index(kind)
        places = (ctypes.addressof(array) for array in (self._bounds, self._always))
        self._struct = GateStruct(*rules, *places)
        self.n_active = n_active
        self._choose = library().ds_gate_choose

    def shown(self, tensors: GateTensors) -> GateStruct:
        """What the library takes; the caller keeps the tensors."""
        struct, (weight, bias, load, null, null_bias) = self._struct, tensors
        struct.weight, struct.bias = weight.data_ptr(), bias.data_ptr()
        struct.load = None if load is None else load.data_ptr()
        if null is not None and null_bias is not None:
            struct.null_row, struct.null_bias = null.data_ptr(), null_bias.data_ptr()
        return struct

    def choose(
        self,
        x: Float[Tensor, "T D"],
        tensors: GateTensors,
        domains: Int[Tensor, " T"] | None = None,
    ) -> Choice:
        """Choose experts for rows, and count them.

        Raises:
            ValueError: Something does not fit together.
        """
        struct, n_rows = self.shown(tensors), x.shape[0]
        experts = torch.empty(n_rows, struct.n_active, dtype=torch.int64)
        weights = torch.empty(n_rows, struct.n_active)
        x = x.contiguous()
        labels = None if domains is None else domains.contiguous()
        problem = self._choose(
            ctypes.byref(struct),
            DTYPES[x.dtype],
            n_rows,
            x.data_ptr(),
            None if labels is None else labels.data_ptr(),
            experts.data_ptr(),
            weights.data_ptr(),
        )
        _check(problem, "a gate")
        return Choice(experts, weights)


class NativeExperts:
    """The experts of a layer in the kernels' layout, outside torch's memory."""

    def __init__(
        self,
        sizes: Sequence[int],
        first: Sequence[Tensor],
        second: Sequence[Tensor],
        *,
        scale: float = 1.0,
        is_low_rank: bool,
    ) -> None:
        """Copy stacked tensors.

        Args:
            sizes: Ranks or neurons of each expert.
            first: What x is multiplied by: `down` [R, I] of each matrix that is added to, or the
                one `gate_up` [2 W, D] of SwiGLU layers.
            second: What the inner numbers are multiplied by, transposed: `up` [R, O] of each
                matrix, or the one `down` [W, D].
            scale: Of all that experts say.
            is_low_rank: Whether they add to products; else they are SwiGLU layers.

        Raises:
            ValueError: Shapes do not fit together, or not the library.
            MemoryError: There is not enough memory.
        """
        self._library = library()
        self.is_low_rank, self.dtype = is_low_rank, first[0].dtype
        n_rows, halves = sum(sizes), 1 if is_low_rank else 2
        self._shapes = ([tuple(t.shape) for t in first], [tuple(t.shape) for t in second])
        n_in, self.n_outs = first[0].shape[1], tuple(t.shape[1] for t in second)
        wanted = ([(halves * n_rows, n_in)] * len(first), [(n_rows, n) for n in self.n_outs])
        formats = {t.dtype for t in (*first, *second)}
        if self._shapes != wanted or formats != {self.dtype} or self.dtype not in DTYPES:
            raise ValueError(f"experts of {self._shapes} in {formats}")
        kept = [[t.detach().contiguous() for t in side] for side in (first, second)]
        handle = _POINTER()
        problem = self._library.ds_experts_new(
            is_low_rank,
            DTYPES[self.dtype],
            len(sizes),
            (_SIZE * len(sizes))(*sizes),
            scale,
            n_in,
            len(second),
            (_SIZE * len(second))(*self.n_outs),
            *(_places(side) for side in kept),
            ctypes.byref(handle),
        )
        if problem == native.NO_MEMORY:
            raise MemoryError("not enough memory for experts")
        _check(problem, "experts")
        self.handle, self._n_in, self._n_out = handle, n_in, sum(self.n_outs)
        self._route = self._library.ds_experts_route

    def __del__(self) -> None:
        if handle := getattr(self, "handle", None):
            self._library.ds_experts_free(handle)

    @property
    def n_bytes(self) -> int:
        """Bytes of the packed weights, with what fills up tiles."""
        return int(self._library.ds_experts_bytes(self.handle))

    def unpack(self) -> tuple[list[Tensor], list[Tensor]]:
        """The stacked tensors, bit for bit."""
        sides = [[torch.empty(shape, dtype=self.dtype) for shape in side] for side in self._shapes]
        _check(self._library.ds_experts_unpack(self.handle, *map(_places, sides)), "experts")
        return sides[0], sides[1]

    def add(
        self, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"], choice: Choice
    ) -> Float[Tensor, "T O"]:
        """Add what chosen experts of low rank say to products side by side. Changes `y`.

        Raises:
            ValueError: A choice is of other experts.
        """
        assert self.is_low_rank
        self._call(self._library.ds_experts_add, x.contiguous(), y, choice)
        return y

    def route(
        self,
        gate: tuple[NativeGate, GateTensors],
        x: Float[Tensor, "T I"],
        y: Float[Tensor, "T O"],
        domains: Int[Tensor, " T"] | None = None,
    ) -> Choice:
        """Choose experts for rows as the gate does, and add what they say to `y`: one call, as with
        few rows calls cost most.

        Raises:
            ValueError: Something does not fit together.
        """
        assert self.is_low_rank
        rules, tensors = gate
        n_rows, n_slots = x.shape[0], rules.n_active
        self._check_rows(n_rows, x, y)
        experts = torch.empty((n_rows, n_slots), dtype=torch.int64)
        weights = torch.empty((n_rows, n_slots))
        labels = None if domains is None else domains.contiguous()
        problem = self._route(
            self.handle,
            ctypes.byref(rules.shown(tensors)),
            n_rows,
            None if labels is None else labels.data_ptr(),
            experts.data_ptr(),
            weights.data_ptr(),
            x.data_ptr(),
            y.data_ptr(),
        )
        if problem:
            _check(problem, "experts")
        return Choice(experts, weights)

    def run(self, x: Float[Tensor, "T D"], choice: Choice) -> Float[Tensor, "T O"]:
        """What chosen SwiGLU experts say, times their weights.

        Raises:
            ValueError: A choice is of other experts.
        """
        assert not self.is_low_rank
        make = torch.empty if choice.experts.numel() else torch.zeros
        y = make(x.shape[0], self.n_outs[0], dtype=x.dtype)
        self._call(self._library.ds_experts_run, x.contiguous(), y, choice)
        return y

    def _call(self, call: "ctypes._FuncPointer", x: Tensor, y: Tensor, choice: Choice) -> None:
        n_rows, n_slots = choice.experts.shape
        self._check_rows(n_rows, x, y)
        if not n_rows * n_slots:
            return
        experts, weights = choice.experts.contiguous(), choice.weights.float().contiguous()
        struct = ChoiceStruct(n_rows, n_slots, experts.data_ptr(), weights.data_ptr())
        problem = call(self.handle, ctypes.byref(struct), x.data_ptr(), y.data_ptr())
        if problem:
            _check(problem, "experts")

    def _check_rows(self, n_rows: int, x: Tensor, y: Tensor) -> None:
        """The library cannot see where memory ends."""
        is_right = (
            x.numel() == n_rows * self._n_in
            and y.numel() == n_rows * self._n_out
            and x.dtype is self.dtype
            and y.dtype is self.dtype
            and x.is_contiguous()
            and y.is_contiguous()
        )
        if not is_right:
            raise ValueError(f"{tuple(x.shape)} and {tuple(y.shape)} in {x.dtype} for experts")


def fits(dtype: torch.dtype, device: torch.device, *widths: int) -> bool:
    """Whether layers of such widths are computed in the library, and fast."""
    return (
        device.type == "cpu"
        and dtype in DTYPES
        and all(width % TILE == 0 for width in widths)
        and native.is_fast()
    )


def library() -> ctypes.CDLL:
    """The compiled library with what belongs to mixtures declared."""
    found = native.library()
    assert found is not None, "the caller has asked `fits`"
    integer = ctypes.c_int
    found.ds_gate_choose.argtypes = [_POINTER, integer, _SIZE, *[_POINTER] * 4]
    found.ds_experts_new.argtypes = [
        *(integer, integer, _SIZE, _POINTER, ctypes.c_double, _SIZE, _SIZE),
        *[_POINTER] * 4,
    ]
    found.ds_experts_free.argtypes = [_POINTER]
    found.ds_experts_free.restype = None
    found.ds_experts_bytes.argtypes = [_POINTER]
    found.ds_experts_bytes.restype = _SIZE
    found.ds_experts_unpack.argtypes = [_POINTER] * 3
    found.ds_experts_add.argtypes = [_POINTER] * 4
    found.ds_experts_route.argtypes = [_POINTER, _POINTER, _SIZE, *[_POINTER] * 5]
    found.ds_experts_run.argtypes = [_POINTER] * 4
    return found


def _places(tensors: Sequence[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    return (_POINTER * len(tensors))(*(t.data_ptr() for t in tensors))


def _check(problem: int, what: str) -> None:
    if problem:
        raise ValueError(f"{what}: {PROBLEMS[problem]}")
