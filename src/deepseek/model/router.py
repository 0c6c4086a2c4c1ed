"""A router that was taught where attention goes: memory nodes beside the mean and the outlier.

What draws attention can be seen from keys before their rotation: a learned vector a node scores a
page's keys, and the node is their mean, weighted by the softmax of these scores. As a sum of
rotated keys it turns like one, so that it can be looked at from any distance. Queries are
stretched by a learned factor for each of their pairs before they look at learned nodes.

Axes: L layers, G key/value heads, R query heads for each, J learned nodes, K head width; others as
in `ops.hierarchical`.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepseek.core.errors import CheckpointError
from deepseek.model.config import ModelConfig
from deepseek.ops.hierarchical import NODES, PAGE, UNTRAINED, node_scores
from deepseek.ops.rope import apply_rope, rope_table
from deepseek.weights.cache import write_atomically
from deepseek.weights.mapping import MappedFile
from deepseek.weights.safetensors import read_entries

LEARNED = 4
"""Learned nodes of a page: as many as there are without."""
SCALE = 0.05
"""Deviation of the first scores' weights: learned nodes must differ to become different."""


class LearnedRouter(nn.Module):
    """Adds to what a page is expected to weigh what its learned nodes add, times a gate.

    The gate begins at zero: before training the votes are those of `NodeRouter`, to the bit.
    """

    def __init__(self, config: ModelConfig, n_nodes: int = LEARNED, seed: int = 0) -> None:
        super().__init__()
        self.theta = config.rope_theta
        layers, groups, width = config.n_layers, config.n_kv_heads, config.d_head
        repeats = config.n_heads // groups
        generator = torch.Generator().manual_seed(seed)
        salience = SCALE * torch.randn(layers, groups, width, n_nodes, generator=generator)
        self.salience = nn.Parameter(salience)
        """How much a key draws attention, in each node's view. [L, G, K, J]"""
        self.place = nn.Parameter(torch.zeros(layers, groups, PAGE, n_nodes))
        """The same by its place in the page."""
        count = torch.full((layers, groups, n_nodes), math.log(PAGE / n_nodes))
        self.count = nn.Parameter(count)
        """Logarithm of how many keys a node stands for."""
        self.stretch = nn.Parameter(torch.zeros(layers, groups, repeats, width // 2))
        """What is added to 1 for the factor of a query's pair."""
        self.gate = nn.Parameter(torch.zeros(layers, groups, repeats))

    def remember(
        self, layer: int, keys: Float[Tensor, "G S K"], first: int
    ) -> Float[Tensor, "G N M K"]:
        """Mean and outlier of each half page, then the learned nodes."""
        plain = UNTRAINED.remember(layer, keys, first)
        start = first * PAGE
        back = -torch.arange(start, start + keys.shape[1], device=keys.device)
        still = apply_rope(keys[None], *rope_table(back, keys.shape[2], self.theta, keys.dtype))[0]
        pages = torch.unflatten(still, 1, (-1, PAGE)).to(self.salience.dtype)
        scores = pages @ self.salience[layer][:, None] + self.place[layer][:, None]
        weights = scores.softmax(2).to(keys.dtype)
        learned = weights.transpose(2, 3) @ torch.unflatten(keys, 1, (-1, PAGE))
        return torch.cat((plain, learned), 2)

    def look(
        self, layer: int, rows: Float[Tensor, "G B Q K"], nodes: Float[Tensor, "G N M K"]
    ) -> Float[Tensor, "G B Q N"]:
        """What the plain nodes say, and what the learned ones add to it."""
        plain = UNTRAINED.look(layer, rows, nodes[:, :, :NODES])
        factor = 1 + torch.cat((self.stretch[layer],) * 2, -1)
        heads = torch.unflatten(rows, 2, (factor.shape[1], -1))
        stretched = (heads * factor[:, None, :, None].to(rows.dtype)).flatten(2, 3)
        count = self.count[layer].to(rows.dtype)[:, None, None, None]
        learned = (node_scores(stretched, nodes[:, :, NODES:]) + count).logsumexp(-1)
        more = torch.logaddexp(learned, plain) - plain
        gate = self.gate[layer].to(rows.dtype)[:, None, :, None, None]
        return plain + (gate * torch.unflatten(more, 2, heads.shape[2:4])).flatten(2, 3)


def save_router(router: LearnedRouter, path: Path) -> None:
    """Write a router as safetensors, whole or not at all.

    Raises:
        CheckpointError: The file cannot be written.
    """
    write_tensors(path, {name: tensor.detach() for name, tensor in router.state_dict().items()})


def load_router(path: Path, config: ModelConfig) -> LearnedRouter:
    """Read a router that was trained for a model of this shape.

    Raises:
        CheckpointError: The file is damaged, or belongs to another shape.
    """
    tensors = read_tensors(path)
    salience = tensors.get("salience")
    if salience is None or salience.dim() != 4 or not 1 <= salience.shape[3] <= PAGE:
        raise CheckpointError(f"{path} holds no router", "name a file that RouterTrainer wrote")
    router = LearnedRouter(config, salience.shape[3])
    fill_router(router, tensors, path)
    return router.requires_grad_(False)


def fill_router(router: LearnedRouter, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors into a router of the same shape.

    Raises:
        CheckpointError: One is missing, has another shape, or is not finite.
    """
    for name, own in router.named_parameters():
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != own.shape:
            found = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
            raise CheckpointError(
                f"{name} in {path} is {found}, this model's is {list(own.shape)}",
                "a router works with the checkpoint it was trained for: train one",
            )
        if not tensor.isfinite().all():
            raise CheckpointError(f"{name} in {path} is not finite", "train the router again")
        with torch.no_grad():
            own.copy_(tensor)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        CheckpointError: The file cannot be written.
    """
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    try:
        write_atomically(path, data)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}", "free some space or choose another place"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Copies of all tensors of a small safetensors file.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    return {name: entry.view().clone() for name, entry in read_entries(MappedFile(path)).items()}
