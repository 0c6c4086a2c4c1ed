"""First weights of a model that no rank could hold: made tensor by tensor, and cut at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer
from deepseek.train.pieces import pieces_of


def outline(shape: ModelConfig) -> Transformer:
    """A model without memory for its parameters, which are on torch's meta device; buffers are
    there."""
    with _without_memory():
        return Transformer(shape)


@torch.no_grad()
def fill_outline(model: Transformer, device: torch.device, seed: int) -> None:
    """Give this rank's rows of an outline memory and the values that `initialise` draws.

    Every rank draws all values, a tensor at a time: the largest one is what it holds beside its
    rows. So weights do not depend on the number of ranks.

    Args:
        model: An outline that `distribute` has shared out.
        device: Where the rows go.
        seed: Of the values.
    """
    apply: Any = model._apply  # `to_empty` would lose the buffers
    apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))
    if model.config.tied_embeddings:
        model.head.weight = model.embedding.weight
    pieces, generator = pieces_of(model), torch.Generator().manual_seed(seed)
    for name, _ in model.named_parameters():
        piece = pieces[name]
        values = torch.empty(piece.shape, dtype=piece.tensor.dtype)
        model.draw(name, values, generator)
        piece.fill(piece.cut(values))


@contextmanager
def _without_memory() -> Iterator[None]:
    """A block in which modules keep the shapes of parameters only."""
    modules: Any = nn.Module
    register = modules.register_parameter

    def register_shape(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # a tied one is there already
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    modules.register_parameter = register_shape
    try:
        yield
    finally:
        modules.register_parameter = register
