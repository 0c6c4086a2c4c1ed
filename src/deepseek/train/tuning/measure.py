"""Log-probabilities of answers under the model as it is, or as it was before training."""

from collections.abc import Sequence

import torch

from deepseek.adapt.lora import switch
from deepseek.data.packed import pack
from deepseek.model.packed import PackedCache
from deepseek.model.transformer import Transformer
from deepseek.train.loss import token_nats
from deepseek.train.objective import Sample


class Logprobs:
    """Reads answers without gradients, so many in a pass."""

    def __init__(
        self, model: Transformer, dtype: torch.dtype, micro: int, *, base: bool = False
    ) -> None:
        """Keep what is needed.

        Args:
            model: It is read as it is at each call.
            dtype: Of products.
            micro: Answers of a pass.
            base: Without its low-rank parts.
        """
        self._model, self._dtype, self._micro, self._base = model, dtype, micro, base

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample]) -> list[tuple[float, ...]]:
        """Of each answer's tokens."""
        model, found = self._model, list[tuple[float, ...]]()
        device = next(model.parameters()).device
        switch(model, not self._base)
        try:
            for first in range(0, len(samples), self._micro):
                part = samples[first : first + self._micro]
                row = pack(part, device)
                wide = self._dtype is torch.float32
                with torch.autocast(device.type, self._dtype, enabled=not wide):
                    hidden = model.hidden_states(row.ids, PackedCache(row.lengths, device))
                    nats = token_nats(lambda x: model.head(model.norm(x)), hidden, row.labels)
                values = (-nats)[row.labels >= 0].tolist()
                for sample in part:
                    found.append(tuple(values[: sample.n_labels]))
                    values = values[sample.n_labels :]
        finally:
            switch(model, True)
        return found
