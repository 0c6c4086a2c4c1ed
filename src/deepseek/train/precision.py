"""FP8 in training: which products are computed in it, and by whom.

The products of blocks are: attention's, feed-forward layers' and wide experts'. Embedding, head,
norms and gates are not, nor experts of low rank, which are narrower than a tile.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from deepseek.core.log import LOGGER
from deepseek.model.linear import Linear, Product
from deepseek.model.moe.experts import NeuronExperts
from deepseek.model.transformer import Transformer
from deepseek.ops.float8 import float8_linear

FIRST_CAPABILITY = (8, 9)
"""Of a GPU that multiplies FP8: Ada, Hopper and later."""
RECIPE = "rowwise"
"""Of torchao: a scale for each row of activations and weights."""


def use_precision(model: Transformer, precision: Literal["plain", "fp8"]) -> None:
    """Let a model's blocks multiply in a format: by the GPU where it can, else in emulation."""
    if precision == "plain":
        return
    device = next(model.parameters()).device
    missing = why_not_native(device)
    if missing is None:
        product: Product = native_product()
    else:
        LOGGER.warning("FP8 is emulated, which is slower than plain products: %s", missing)
        product = float8_linear
    for module in model.blocks.modules():
        if isinstance(module, Linear | NeuronExperts):
            module.product = product


def why_not_native(device: torch.device) -> str | None:
    """Why FP8 cannot be computed natively on a device; None: it can."""
    if device.type != "cuda":
        return f"the {device.type} multiplies no FP8"
    if torch.cuda.get_device_capability(device) < FIRST_CAPABILITY:
        return "the GPU multiplies no FP8"
    if not _has_torchao():
        return "torchao is not installed (pip install 'deepseek[fp8]')"
    return None


def _has_torchao() -> bool:
    try:
        import torchao.float8  # noqa: F401
    except ImportError:
        return False
    return True


def native_product(*, emulate: bool = False) -> Product:
    """The product of torchao, which the GPU computes with scales of rows.

    Args:
        emulate: Round as it does, on any device.
    """
    from torchao.float8.config import Float8LinearConfig
    from torchao.float8.float8_linear import Float8Linear, matmul_with_hp_or_float8_args

    recipe = Float8LinearConfig.from_recipe_name(RECIPE)
    config: Any = replace(recipe, emulate=emulate, pad_inner_dim=True)
    layer: Any = Float8Linear(1, 1, bias=False, config=config, device="meta")

    def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        args = x, weight.t(), layer.linear_mm_config, config
        out: Tensor = matmul_with_hp_or_float8_args.apply(*args)
        return out if bias is None else out + bias.to(out.dtype)

    return product
