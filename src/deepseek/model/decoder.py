"""One call a token: all layers of a quantised model in the native library.

The slow reference is `Transformer.hidden_states`, layer by layer through torch.
"""

import ctypes

import torch
from jaxtyping import Float32
from torch import Tensor

from deepseek.model.block import Block
from deepseek.model.cache import DenseCache
from deepseek.model.linear import Linear
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from deepseek.ops.linear import QuantisedWeight
from deepseek.ops.native import NativeMatrix
from deepseek.ops.rope import rope_table


class NativeDecoder:
    """A model whose matrices are all packed for the kernels, for single new tokens."""

    def __init__(self, model: Transformer) -> None:
        """Take a model for which `can_decode` holds."""
        library = native.library()
        assert library is not None
        self._library, self._model = library, model
        config = model.config
        self._handle = library.ds_model_new(
            config.n_layers,
            config.d_model,
            config.n_heads,
            config.n_kv_heads,
            config.d_head,
            config.d_ff,
            config.norm_eps,
        )
        assert self._handle
        self._kept: list[object] = []  # what the library points at
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            for which, (matrix, bias) in enumerate(_matrices(block)):
                self._set_matrix(layer, which, matrix, bias)
            norms = (block.attention_norm, block.feed_forward_norm)
            for which, norm in enumerate(norms):
                weight = norm.weight.detach().float().contiguous()
                library.ds_model_set_norm(self._handle, layer, which, weight.data_ptr())

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.ds_model_free(self._handle)

    def step(self, token_id: int, cache: DenseCache) -> Float32[Tensor, "1 D"]:
        """What the last block returns for one new token, which enters the cache."""
        config = self._model.config
        ids = torch.tensor([[token_id]])
        x: Tensor = self._model.embedding(ids)[0].float().contiguous()
        position = torch.tensor([cache.length])
        cosines, sines = rope_table(position, config.d_head, config.rope_theta, torch.float32)
        half = config.d_head // 2
        cosines, sines = cosines[:, :half].contiguous(), sines[:, half:].contiguous()
        pairs = cache.reserve(cache.length + 1)
        keys = (ctypes.c_void_p * len(pairs))(*(k.data_ptr() for k, _ in pairs))
        values = (ctypes.c_void_p * len(pairs))(*(v.data_ptr() for _, v in pairs))
        problem = self._library.ds_model_step(
            self._handle,
            1,
            x.data_ptr(),
            cosines.data_ptr(),
            sines.data_ptr(),
            keys,
            values,
            (ctypes.c_int64 * 1)(cache.length),
            (ctypes.c_int64 * 1)(pairs[0][0].shape[2]),
        )
        if problem:
            raise RuntimeError(f"a native step: {native.PROBLEMS[problem]}")
        cache.advance(1)
        return x

    def _set_matrix(
        self, layer: int, which: int, matrix: NativeMatrix, bias: Tensor | None
    ) -> None:
        problem = self._library.ds_model_set_matrix(
            self._handle, layer, which, *matrix.place, None if bias is None else bias.data_ptr()
        )
        if problem:
            raise RuntimeError(f"matrix {which} of layer {layer}: {native.PROBLEMS[problem]}")
        self._kept += [matrix, bias]


def can_decode(model: Transformer, dtype: torch.dtype) -> bool:
    """Whether a model is all quantised and of a shape that the library takes."""
    config = model.config
    linears = [m for block in model.blocks for m in block.modules() if isinstance(m, Linear)]
    return (
        native.is_available()
        and dtype is torch.bfloat16
        and all(isinstance(linear.packed, QuantisedWeight) for linear in linears)
        and config.d_head % 32 == 0
        and config.d_head <= 256
        and config.d_model % 32 == 0
        and config.d_ff % 32 == 0
    )


def _matrices(block: Block) -> list[tuple[NativeMatrix, Tensor | None]]:
    """Queries, keys, values, output, gate, up, down, each with its bias."""
    found: list[tuple[NativeMatrix, Tensor | None]] = []
    attention, feed_forward = block.attention, block.feed_forward
    for linear in (attention.qkv, attention.output, feed_forward.gate_up, feed_forward.down):
        assert isinstance(linear.packed, QuantisedWeight)
        parts = linear.packed.parts
        biases: list[Tensor | None] = [None] * len(parts)
        if linear.bias is not None:
            sizes = [part.shape[0] for part in parts]
            whole = linear.bias.detach().float()
            biases = [b.contiguous() for b in torch.split(whole, sizes)]
        found += list(zip(parts, biases, strict=True))
    return found
