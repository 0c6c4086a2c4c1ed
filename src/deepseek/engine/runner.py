"""Runs the model over one cached sequence: chunked prefill, decode steps, prefix reuse."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.model.cache import DenseCache, KVCache
from deepseek.model.decoder import NativeDecoder, can_decode
from deepseek.model.transformer import Transformer

# Prompt tokens a forward pass: bounds the activations' memory. Attention takes larger blocks
# of queries from 768 on.
CHUNK = 1_024


class Runner:
    """A model with one sequence in its cache.

    `read` keeps the longest common prefix of the cached and the wanted tokens, so that a
    follow-up question or the next candidate after a shared text costs only what is new.
    """

    def __init__(self, model: Transformer, *, dtype: torch.dtype, device: torch.device) -> None:
        self.model = model
        self.dtype, self.device = dtype, device
        self.tokens: list[int] = []
        self._cache = DenseCache(model.config, dtype=dtype, device=device)
        self._decoder = NativeDecoder(model) if can_decode(model, dtype) else None

    @property
    def cache_bytes(self) -> int:
        """Bytes that keys and values take."""
        return self._cache.n_bytes

    def reusable(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens are in the cache already."""
        common = 0
        for cached, wanted in zip(self.tokens, token_ids, strict=False):
            if cached != wanted:
                break
            common += 1
        return common

    def read(
        self,
        token_ids: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, " V"]:
        """Bring the cache to exactly `token_ids` and return the logits after the last one.

        Args:
            token_ids: At least one token.
            on_progress: Called with tokens read and tokens to read before each chunk; an
                exception from it (cancellation) leaves a consistent cache.
        """
        # The last token is always run again: its logits are wanted and were not kept.
        reused = min(self.reusable(token_ids), len(token_ids) - 1)
        self._truncate(reused)
        fresh = list(token_ids[reused:])
        logits: Tensor | None = None
        for start in range(0, len(fresh), CHUNK):
            if on_progress:
                on_progress(start, len(fresh))
            chunk = fresh[start : start + CHUNK]
            is_last = start + CHUNK >= len(fresh)
            logits = self._forward(chunk, last=1 if is_last else 0)
        assert logits is not None
        return logits[-1]

    def fill(self, token_ids: Sequence[int]) -> DenseCache:
        """Bring the cache to exactly `token_ids`, without logits, and return it to read from."""
        reused = self.reusable(token_ids)
        self._truncate(reused)
        for start in range(reused, len(token_ids), CHUNK):
            self._forward(list(token_ids[start : start + CHUNK]), last=0)
        return self._cache

    @torch.inference_mode()
    def run_row(
        self, token_ids: Sequence[int], cache: KVCache, wanted: Sequence[int]
    ) -> Float[Tensor, "W D"]:
        """Run the tokens of several sequences through another cache.

        Args:
            token_ids: The tokens behind each other, as the cache expects them.
            cache: What they attend to.
            wanted: Places in the row whose hidden states are needed.

        Returns:
            Hidden states for `head`.
        """
        row = torch.tensor([list(token_ids)], device=self.device)
        hidden = self.model.hidden_states(row, cache)
        return hidden[0, torch.tensor(list(wanted), dtype=torch.long, device=self.device)]

    @torch.inference_mode()
    def head(self, hidden: Float[Tensor, "W D"]) -> Float[Tensor, "W V"]:
        """Logits for the token after each hidden state."""
        return self.model.head(self.model.norm(hidden))  # type: ignore[no-any-return]

    def step(self, token_id: int) -> Float[Tensor, " V"]:
        """Append one token and return the logits after it."""
        return self._forward([token_id], last=1)[-1]

    def extend(self, token_ids: Sequence[int]) -> Float[Tensor, "T V"]:
        """Append tokens and return the logits after each of them."""
        return self._forward(list(token_ids), last=len(token_ids))

    def rewind(self, n_tokens: int) -> None:
        """Forget everything after the first `n_tokens`."""
        self._truncate(n_tokens)

    def _truncate(self, length: int) -> None:
        self._cache.truncate(length)
        del self.tokens[length:]

    @torch.inference_mode()
    def _forward(self, token_ids: list[int], last: int) -> Tensor:
        logits: Tensor
        if self._decoder is not None:
            hidden = self._decoder.extend(token_ids, self._cache)
            self.tokens += token_ids
            return self._decoder.logits(hidden[len(hidden) - last :])
        batch = torch.tensor([token_ids], device=self.device)
        if last:
            logits = self.model(batch, self._cache, last=last)[0]
        else:
            self.model.hidden_states(batch, self._cache)
            logits = torch.empty(0, self.model.config.vocab_size, device=self.device)
        self.tokens += token_ids
        return logits
