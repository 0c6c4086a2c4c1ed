"""A whole decoder in the compiled library: one call brings new tokens through all layers."""

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from deepseek.core.errors import DiskError
from deepseek.core.low_rank import LowRank
from deepseek.ops import native
from deepseek.ops.cold import ColdTier, page_bytes
from deepseek.ops.hierarchical import NEVER, PAGE, Hierarchy
from deepseek.ops.huge_pages import empty
from deepseek.ops.moe.native import GateTensors, NativeExperts, NativeGate
from deepseek.ops.native import PROBLEMS, NativeMatrix
from deepseek.ops.page_file import PageFile
from deepseek.ops.rope import rope_table


class Matrix(IntEnum):
    """A layer's matrices, and those of no layer, as the library numbers them."""

    Q, K, V, O, GATE, UP, DOWN, HEAD, EMBEDDING = range(9)  # noqa: E741 (the field's names)


class Norm(IntEnum):
    """A layer's norms, and the last of no layer."""

    ATTENTION, FEED_FORWARD, LAST = range(3)


NO_ADAPTER = -1
"""In place of an adapter's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the library must know of a decoder."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    epsilon: float

    def of(self, which: Matrix) -> tuple[int, int]:
        """Rows and columns of a layer's matrix."""
        query, group = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        d, wide = self.d_model, self.d_ff
        sizes = ((query, d), (group, d), (group, d), (d, query), (wide, d), (wide, d), (d, wide))
        return sizes[which]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Keys and values in blocks of pages, each [layers, pages, heads, numbers or bytes]."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor] = ()
    """None of them for pages of memory nodes."""

    def of(self, page: int) -> list[Tensor]:
        """Keys, and values if there are any, of one page: [layers, heads, numbers]."""
        block, place = divmod(page, self.keys[0].shape[1])
        return [blocks[block][:, place] for blocks in (self.keys, self.values) if blocks]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokens:
    """How many tokens follow what a sequence's pages hold already."""

    count: int
    length: int
    pages: Sequence[int]
    """Numbers of its pages in order, with room for the new tokens."""
    memory: Sequence[int] = ()
    """Numbers of the pages of its memory nodes, likewise; none: it has no memory."""
    cold: Sequence[int] = ()
    """Numbers of cold pages, one for each that is complete with the new tokens; none: all pages
    are read as they are. Else numbers in `pages` that no new token sees may be -1."""
    asks_from: int = NEVER
    """The position from which tokens choose by keys what they recall."""
    adapter: int = NO_ADAPTER
    """The number of what is added to the model's products for it."""


class NativeModel:
    """A decoder of the Llama and Qwen2 families whose matrices are all packed."""

    def __init__(self, shape: Shape) -> None:
        """Make an empty one.

        Raises:
            ValueError: The library does not take the shape.
        """
        self._library = library()
        self.shape = shape
        self._kept: list[object] = []  # what the library points at
        self._rope: tuple[Tensor, ...] = ()
        self.n_positions = 0
        """Positions that have a rotation."""
        self._pages: Pages | None = None
        self._memory: Pages | None = None
        self._cold: Pages | PageFile | None = None
        self._trace: Tensor | None = None
        self.has_embedding = False
        self._handle = self._library.ds_model_new(
            shape.n_layers,
            shape.d_model,
            shape.n_heads,
            shape.n_kv_heads,
            shape.d_head,
            shape.d_ff,
            shape.epsilon,
        )
        if not self._handle:
            raise ValueError(f"no native decoder of this shape: {shape}")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.ds_model_free(self._handle)

    def set_matrix(
        self, layer: int, which: Matrix, matrix: NativeMatrix, bias: Tensor | None = None
    ) -> None:
        """Give it a matrix and its bias in float32."""
        place = None if bias is None else bias.data_ptr()
        _check(
            self._library.ds_model_set_matrix(self._handle, layer, which, *matrix.place, place),
            f"{which.name} of layer {layer}",
        )
        self._kept += [matrix, bias]
        self.has_embedding |= which is Matrix.EMBEDDING

    def set_experts(
        self,
        layer: int,
        gate: tuple[NativeGate, GateTensors],
        hidden: NativeExperts,
        down: NativeExperts,
    ) -> None:
        """Let experts of low rank add to the products of a feed-forward layer.

        Args:
            layer: Its number.
            gate: Rules and tensors; what becomes of these is seen by the next pass.
            hidden: Of the gate and up products.
            down: Of the last product.

        Raises:
            ValueError: Shapes do not fit together.
        """
        rules, tensors = gate
        problem = self._library.ds_model_set_experts(
            self._handle, layer, ctypes.byref(rules.shown(tensors)), hidden.handle, down.handle
        )
        _check(problem, f"experts of layer {layer}")
        self._kept += [rules, tensors, hidden, down]

    def set_norm(self, layer: int, which: Norm, weight: Tensor) -> None:
        """Copy a norm's weights."""
        numbers = weight.detach().float().contiguous()
        _check(
            self._library.ds_model_set_norm(self._handle, layer, which, numbers.data_ptr()),
            f"norm {which.name} of layer {layer}",
        )

    def set_rope(self, theta: float, n_positions: int) -> None:
        """Make the rotations of at least that many positions from 0 on."""
        width, half = self.shape.d_head, self.shape.d_head // 2
        n_pages = -(-n_positions // PAGE)
        kept = []
        # Whole pages, then the positions of a page: the library turns by both.
        for positions in (torch.arange(n_pages) * PAGE, torch.arange(PAGE)):
            cosines, sines = rope_table(positions, width, theta, torch.float32)
            kept += [cosines[:, :half].contiguous(), sines[:, half:].contiguous()]
        places = [t.data_ptr() for t in kept]
        _check(self._library.ds_model_set_rope(self._handle, n_pages, *places), "rotations")
        self._rope, self.n_positions = tuple(kept), n_pages * PAGE

    def set_cache(self, pages: Pages) -> None:
        """Say where keys and values are. Pages that are written to must not be shared.

        Raises:
            ValueError: The tensors are too small for that.
        """
        self._check_pages(pages, PAGE * self.shape.d_head)
        _check(self._library.ds_model_set_cache(self._handle, _described(pages)), "a cache")
        self._pages = pages

    def set_memory(self, pages: Pages) -> None:
        """Say where memory nodes are: 64 vectors a page, four for a page of keys.

        Raises:
            ValueError: The tensors are too small for that.
        """
        self._check_pages(pages, PAGE * self.shape.d_head, has_values=False)
        _check(self._library.ds_model_set_memory(self._handle, _described(pages)), "memory nodes")
        self._memory = pages

    def set_cold(self, pages: Pages | PageFile, tier: ColdTier) -> None:
        """Say where cold pages are, and what is seen of them.

        Args:
            pages: In memory, or in a file: once more when that has grown.
            tier: What is seen so.

        Raises:
            ValueError: The tensors are too small for that, or no such file can be read here.
        """
        sizes = tier.bits, tier.sinks // PAGE, tier.window // PAGE
        if isinstance(pages, PageFile):
            set_them, described = self._library.ds_model_set_cold_file, pages.describe()
        else:
            self._check_pages(pages, page_bytes(tier.bits, self.shape.d_head), dtype=torch.uint8)
            set_them, described = self._library.ds_model_set_cold, _described(pages)
        _check(set_them(self._handle, *sizes, described), "cold pages")
        self._cold = pages

    def expand(self, cold_page: int, page: int) -> None:
        """Make a page, in all layers, of what a cold page stands for.

        Raises:
            ValueError: One of them is not there.
            DiskError: The cold page cannot be read.
        """
        self._check_pass(
            self._library.ds_model_expand(self._handle, cold_page, page), "a cold page"
        )

    def set_hierarchy(self, hierarchy: Hierarchy) -> None:
        """Say what sequences with memory nodes see."""
        settings = _Hierarchy(
            hierarchy.sinks // PAGE,
            hierarchy.window // PAGE,
            hierarchy.recall // PAGE,
            hierarchy.dense,
            hierarchy.reach,
            hierarchy.fusion,
            hierarchy.looked_pages,
            hierarchy.scanned_pages,
        )
        problem = self._library.ds_model_set_hierarchy(self._handle, ctypes.byref(settings))
        _check(problem, "hierarchical attention")
        shape = self.shape.n_layers, self.shape.n_kv_heads, hierarchy.recall // PAGE
        self._trace = torch.full(shape, -1, dtype=torch.int32)

    def trace(self, wanted: bool) -> Int32[Tensor, "L G C"]:
        """Note from now on, or no longer, which pages the last queries of a pass recall.

        Returns:
            Page numbers, overwritten by each pass; -1 where there are fewer.
        """
        assert self._trace is not None, "the caller has set a hierarchy"
        place = self._trace.fill_(-1).data_ptr() if wanted else None
        _check(self._library.ds_model_trace(self._handle, place), "a trace")
        return self._trace

    def add_adapter(self, parts: Mapping[tuple[int, Matrix], LowRank]) -> int:
        """Copy what an adapter adds to some matrices, by layer, in bfloat16.

        Returns:
            Its number, which no other one ever gets.

        Raises:
            ValueError: A shape is wrong, or numbers are too large.
            MemoryError: There is not enough memory.
        """
        kept = [(p.down.contiguous(), p.up.contiguous()) for p in parts.values()]
        rows = []
        for ((layer, which), part), (down, up) in zip(parts.items(), kept, strict=True):
            self._check_low_rank(which, down, up)
            places = down.data_ptr(), up.data_ptr()
            rows.append(_LowRank(layer, which, len(down), *places, part.scale))
        number = ctypes.c_int64()
        problem = self._library.ds_model_add_adapter(
            self._handle, len(rows), (_LowRank * len(rows))(*rows), ctypes.byref(number)
        )
        if problem == native.NO_MEMORY:
            raise MemoryError("not enough memory for an adapter")
        _check(problem, "an adapter")
        return number.value

    def remove_adapter(self, number: int) -> None:
        """Give an adapter's memory back.

        Raises:
            ValueError: There is none of that number.
        """
        _check(self._library.ds_model_remove_adapter(self._handle, number), "an adapter")

    def _check_low_rank(self, which: Matrix, down: Tensor, up: Tensor) -> None:
        """The library cannot see where memory ends."""
        n_out, n_in = self.shape.of(which)
        wanted = (len(down), n_in), (n_out, len(down))
        if (down.shape, up.shape) != wanted:
            raise ValueError(f"{tuple(down.shape)} and {tuple(up.shape)} for {which.name}")

    @property
    def pages(self) -> Pages | None:
        """Where keys and values are."""
        return self._pages

    @property
    def memory(self) -> Pages | None:
        """Where memory nodes are."""
        return self._memory

    @property
    def cold(self) -> Pages | PageFile | None:
        """Where cold pages are."""
        return self._cold

    def forward(
        self,
        sequences: Sequence[NewTokens],
        *,
        token_ids: Sequence[int] | None = None,
        embeddings: Float32[Tensor, "T D"] | None = None,
    ) -> Float32[Tensor, "T D"]:
        """Bring new tokens through all layers and keep their keys and values.

        A token's numbers are the same to the last bit whatever else is in the batch, in however
        many chunks a prompt is read, and with any number of threads.

        Args:
            sequences: How many new tokens each has, and where its keys and values are.
            token_ids: Of all sequences, one behind the other; needs an embedding matrix.
            embeddings: Instead of token ids; overwritten by the result.

        Raises:
            ValueError: Something does not fit together.
            DiskError: Cold pages cannot be read or written. No new token counts then.
        """
        n_tokens = sum(s.count for s in sequences)
        if (token_ids is None) == (embeddings is None):
            raise ValueError("either token ids or embeddings")
        ids = None
        if token_ids is not None:
            if len(token_ids) != n_tokens:
                raise ValueError(f"{len(token_ids)} token ids for {n_tokens} tokens")
            ids = _sizes(token_ids)
            x = empty((n_tokens, self.shape.d_model), torch.float32)
        else:
            assert embeddings is not None
            x = embeddings
            if x.shape != (n_tokens, self.shape.d_model) or not x.is_contiguous():
                raise ValueError(f"{tuple(x.shape)} numbers for {n_tokens} tokens")
        tables = [array("i", s.pages) for s in sequences]
        memory = [array("i", s.memory) for s in sequences]
        cold = [array("i", s.cold) for s in sequences]
        has_adapters = any(s.adapter != NO_ADAPTER for s in sequences)
        batch = _Batch(
            len(sequences),
            _sizes([s.count for s in sequences]),
            _sizes([s.length for s in sequences]),
            _tables(tables),
            _sizes([len(s.pages) for s in sequences]),
            ids,
            _tables(memory) if any(s.memory for s in sequences) else None,
            _sizes([len(s.memory) for s in sequences]),
            _tables(cold) if any(s.cold for s in sequences) else None,
            _sizes([len(s.cold) for s in sequences]),
            _sizes([s.asks_from for s in sequences]),
            _sizes([s.adapter for s in sequences]) if has_adapters else None,
        )
        problem = self._library.ds_model_forward(self._handle, ctypes.byref(batch), x.data_ptr())
        self._check_pass(problem, "a forward pass")
        return x

    def logits(self, x: Float32[Tensor, "T D"], vocab_size: int) -> Float32[Tensor, "T V"]:
        """Last norm and head."""
        out = torch.empty(len(x), vocab_size)
        if len(x):
            rows = x.contiguous()
            problem = self._library.ds_model_head(
                self._handle, len(rows), rows.data_ptr(), out.data_ptr()
            )
            _check(problem, "logits")
        return out

    def _check_pass(self, problem: int, what: str) -> None:
        if problem == native.IO:
            raise DiskError.failed(self._library.ds_model_disk_error(self._handle))
        if problem == native.DAMAGED:
            raise DiskError.damaged()
        _check(problem, what)

    def _check_pages(
        self,
        pages: Pages,
        size: int,
        *,
        dtype: torch.dtype = torch.bfloat16,
        has_values: bool = True,
    ) -> None:
        """The library cannot see where memory ends."""
        if not pages.keys or len(pages.values) != (len(pages.keys) if has_values else 0):
            raise ValueError(f"{len(pages.keys)} blocks of keys, {len(pages.values)} of values")
        wanted = self.shape.n_layers, pages.keys[0].shape[1], self.shape.n_kv_heads, size
        for tensor in (*pages.keys, *pages.values):
            if tensor.dtype is not dtype:
                raise ValueError(f"pages are in {tensor.dtype}, not in {dtype}")
            if tensor.shape != wanted or not tensor.is_contiguous():
                raise ValueError(f"a block of {tuple(tensor.shape)} where {wanted} are needed")


class _Batch(ctypes.Structure):
    """`ds_batch`."""

    _fields_ = (
        ("n_sequences", ctypes.c_int64),
        ("counts", ctypes.POINTER(ctypes.c_int64)),
        ("lengths", ctypes.POINTER(ctypes.c_int64)),
        ("tables", ctypes.POINTER(ctypes.c_void_p)),
        ("table_sizes", ctypes.POINTER(ctypes.c_int64)),
        ("token_ids", ctypes.POINTER(ctypes.c_int64)),
        ("memory_tables", ctypes.POINTER(ctypes.c_void_p)),
        ("memory_sizes", ctypes.POINTER(ctypes.c_int64)),
        ("cold_tables", ctypes.POINTER(ctypes.c_void_p)),
        ("cold_sizes", ctypes.POINTER(ctypes.c_int64)),
        ("asks_from", ctypes.POINTER(ctypes.c_int64)),
        ("adapters", ctypes.POINTER(ctypes.c_int64)),
    )


class _LowRank(ctypes.Structure):
    """`ds_low_rank`."""

    _fields_ = (
        ("layer", ctypes.c_int64),
        ("which", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("scale", ctypes.c_double),
    )


class _Pages(ctypes.Structure):
    """`ds_pages`."""

    _fields_ = (
        ("n_blocks", ctypes.c_int64),
        ("block_pages", ctypes.c_int64),
        ("keys", ctypes.POINTER(ctypes.c_void_p)),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
        ("layer_stride", ctypes.c_int64),
        ("page_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class _Hierarchy(ctypes.Structure):
    """`ds_hierarchy`."""

    _fields_ = (
        ("sink_pages", ctypes.c_int64),
        ("window_pages", ctypes.c_int64),
        ("recalled_pages", ctypes.c_int64),
        ("n_dense", ctypes.c_int64),
        ("n_reach", ctypes.c_int64),
        ("fusion", ctypes.c_float),
        ("looked_pages", ctypes.c_int64),
        ("scanned_pages", ctypes.c_int64),
    )


def library() -> ctypes.CDLL:
    """The compiled library with what belongs to models declared."""
    found = native.library()
    assert found is not None, "the caller has asked `native.is_available`"
    size, pointer, integer = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    found.ds_model_new.argtypes = [*[size] * 6, ctypes.c_float]
    found.ds_model_new.restype = pointer
    found.ds_model_free.argtypes = [pointer]
    found.ds_model_free.restype = None
    found.ds_model_set_matrix.argtypes = [
        *(pointer, size, integer, integer, size, size, pointer, pointer)
    ]
    found.ds_model_set_experts.argtypes = [pointer, size, pointer, pointer, pointer]
    found.ds_model_set_norm.argtypes = [pointer, size, integer, pointer]
    found.ds_model_set_rope.argtypes = [pointer, size, *[pointer] * 4]
    found.ds_model_set_memory.argtypes = [pointer, pointer]
    found.ds_model_set_cold.argtypes = [pointer, integer, size, size, pointer]
    found.ds_model_set_cold_file.argtypes = [pointer, integer, size, size, pointer]
    found.ds_model_disk_error.argtypes = [pointer]
    found.ds_model_expand.argtypes = [pointer, size, size]
    found.ds_model_set_hierarchy.argtypes = [pointer, pointer]
    found.ds_model_trace.argtypes = [pointer, pointer]
    found.ds_model_set_cache.argtypes = [pointer, pointer]
    found.ds_model_add_adapter.argtypes = [pointer, size, pointer, pointer]
    found.ds_model_remove_adapter.argtypes = [pointer, size]
    found.ds_model_forward.argtypes = [pointer, pointer, pointer]
    found.ds_model_head.argtypes = [pointer, size, pointer, pointer]
    found.ds_page_positions.restype = size
    assert found.ds_page_positions() == PAGE
    return found


def _described(pages: Pages) -> "ctypes._CArgObject":
    first = pages.keys[0]
    strides = (stride * first.element_size() for stride in first.stride()[:3])
    values = _places(pages.values) if pages.values else None
    return ctypes.byref(
        _Pages(len(pages.keys), first.shape[1], _places(pages.keys), values, *strides)
    )


def _places(tensors: Sequence[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def _tables(tables: "Sequence[array[int]]") -> "ctypes.Array[ctypes.c_void_p]":
    places = [table.buffer_info()[0] if table else None for table in tables]
    return (ctypes.c_void_p * len(tables))(*places)


def _sizes(numbers: Sequence[int]) -> "ctypes.Array[ctypes.c_int64]":
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _check(problem: int, what: str) -> None:
    if problem:
        raise ValueError(f"{what}: {PROBLEMS[problem]}")
