"""A digest that tells checkpoints apart without reading them whole."""

import hashlib
import json

import torch

from deepseek.weights.source import WeightSource


def fingerprint(source: WeightSource) -> str:
    """A digest of the config, the names and shapes of all tensors, and a row of each matrix.

    What fine-tuning changes it changes in nearly every row; the same weights give the same digest
    on every machine, and in another format another one.
    """
    digest = hashlib.sha256(json.dumps(source.config(), sort_keys=True, default=str).encode())
    for name in sorted(source.names()):
        shape = source.shape(name)
        digest.update(f"{name} {shape} ".encode())
        if len(shape) == 2 and shape[0]:
            row = torch.tensor([len(name) * 7_919 % shape[0]])
            digest.update(source.rows(name, row, torch.float32).numpy().tobytes())
        elif len(shape) == 1:
            digest.update(source.tensor(name, torch.float32).numpy().tobytes())
    return digest.hexdigest()
