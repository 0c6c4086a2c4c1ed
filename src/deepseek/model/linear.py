"""A linear layer whose weight may be packed, and an embedding that may stay on disk."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from deepseek.ops.linear import PackedWeight, QuantisedWeight, can_pack, linear, pack

RowLookup = Callable[[Int[Tensor, " N"]], Float[Tensor, "N D"]]
"""Gives the embedding rows of some token ids, e.g. straight from a memory-mapped file."""
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Multiplies rows by a weight and adds a bias, as `F.linear` does."""


class Linear(nn.Module):
    """`x @ weight.T + bias`. Trains with a plain weight; infers with a packed one."""

    def __init__(self, n_in: int, n_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None
        self.packed: PackedWeight | QuantisedWeight | None = None
        self.product: Product | None = None
        """How to multiply in training, if not as `linear` does."""

    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """Multiply."""
        if self.product is not None and self.weight is not None:
            return self.product(x, self.weight, self.bias)
        weight = self.packed if self.packed is not None else self.weight
        assert weight is not None
        return linear(x, weight, self.bias)

    def pack(self) -> None:
        """Replace the plain weight by a packed one where this machine has that."""
        if self.weight is not None and can_pack(self.weight):
            self.packed = pack(self.weight)
            self.weight = None

    def use_quantised(self, weight: QuantisedWeight) -> None:
        """Multiply by quantised weights from now on. The bias becomes float32."""
        self.packed = weight
        self.weight = None
        if self.bias is not None:
            self.bias = nn.Parameter(self.bias.detach().float(), requires_grad=False)

    def dense_weight(self) -> Float[Tensor, "out in"]:
        """The plain weight, unpacked if need be."""
        if self.packed is not None:
            return self.packed.unpack()
        assert self.weight is not None
        return self.weight.detach()


class Embedding(nn.Module):
    """Rows of a table by token id; the table is a parameter or a look-up into a file."""

    def __init__(self, n_rows: int, width: int) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(n_rows, width))
        self.lookup: RowLookup | None = None

    def forward(self, token_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Gather the rows."""
        if self.lookup is not None:
            return self.lookup(token_ids.flatten()).view(*token_ids.shape, -1)
        assert self.weight is not None
        return nn.functional.embedding(token_ids, self.weight)

    def use_lookup(self, lookup: RowLookup) -> None:
        """Drop the table and take rows from `lookup` from now on."""
        self.lookup = lookup
        self.weight = None
