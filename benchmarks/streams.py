"""Several sequences decoded side by side, by this package and by llama.cpp.

Prompts are read once; every timed run starts again behind them.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from deepseek.model.decoder import NativeDecoder
from deepseek.model.transformer import Transformer
from deepseek.ops.hierarchical import PAGE


class Streams(Protocol):
    """Sequences of one length that grow together."""

    first: list[int]
    """The likeliest token after each prompt."""

    def rewind(self) -> None:
        """Back to the prompts."""
        ...

    def step(self, token_ids: Sequence[int]) -> list[int]:
        """Append a token to each; return the likeliest next ones."""
        ...


class OurStreams:
    """Sequences in pages of one pool, all brought through the layers in one call."""

    def __init__(self, model: Transformer, prompts: Sequence[Sequence[int]]) -> None:
        self._decoder = NativeDecoder(model)
        self._prompt = len(prompts[0])
        self._sequences = [self._decoder.sequence() for _ in prompts]
        self.first = self._run(prompts)

    def rewind(self) -> None:
        """Back to the prompts."""
        for sequence in self._sequences:
            sequence.truncate(self._prompt)

    def step(self, token_ids: Sequence[int]) -> list[int]:
        """Append a token to each; return the likeliest next ones."""
        return self._run([[token] for token in token_ids])

    @torch.inference_mode()
    def _run(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """Append as many tokens to each."""
        count = len(rows[0])
        hidden = self._decoder.run(rows, self._sequences)
        found: list[int] = self._decoder.logits(hidden[count - 1 :: count]).argmax(dim=1).tolist()
        return found


class LlamaStreams:
    """A llama.cpp context with several sequences, fed by its low-level batches."""

    def __init__(
        self, llama: Any, prompts: Sequence[Sequence[int]], room: int, *, unified: bool
    ) -> None:
        import llama_cpp

        self._api, self._n_vocab = llama_cpp, llama.n_vocab()
        self._prompt, self._length = len(prompts[0]), 0
        params = llama_cpp.llama_context_params.from_buffer_copy(llama.context_params)
        params.n_ctx = len(prompts) * (-(-(self._prompt + room) // PAGE) * PAGE)
        params.n_seq_max, params.kv_unified = len(prompts), unified
        self._context = llama_cpp.llama_init_from_model(llama.model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp makes no context for {len(prompts)} sequences")
        self._batch = llama_cpp.llama_batch_init(max(self._prompt, len(prompts)), 0, 1)
        self.first = [self._read(i, prompt) for i, prompt in enumerate(prompts)]
        self._length = self._prompt

    def rewind(self) -> None:
        """Back to the prompts."""
        memory = self._api.llama_get_memory(self._context)
        for sequence in range(len(self.first)):
            self._api.llama_memory_seq_rm(memory, sequence, self._prompt, -1)
        self._length = self._prompt

    def step(self, token_ids: Sequence[int]) -> list[int]:
        """Append a token to each; return the likeliest next ones."""
        self._decode([(token, self._length, i, True) for i, token in enumerate(token_ids)])
        self._length += 1
        return [self._likeliest(i) for i in range(len(token_ids))]

    def _read(self, sequence: int, prompt: Sequence[int]) -> int:
        last = len(prompt) - 1
        self._decode([(token, i, sequence, i == last) for i, token in enumerate(prompt)])
        return self._likeliest(last)

    def _decode(self, entries: Sequence[tuple[int, int, int, bool]]) -> None:
        """Run tokens, each with its position, its sequence and whether its logits are wanted."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, is_wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, is_wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if problem := self._api.llama_decode(self._context, batch):
            raise RuntimeError(f"llama.cpp's llama_decode returns {problem}")

    def _likeliest(self, row: int) -> int:
        import numpy as np

        logits = self._api.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._n_vocab,)).argmax())
