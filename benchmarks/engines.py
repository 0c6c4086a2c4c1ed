"""The engines that are compared, behind one face: this package and llama.cpp."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from streams import LlamaStreams, OurStreams, Streams


class Peer(Protocol):
    """What is timed."""

    def tokens(self, text: str) -> list[int]:
        """Token ids."""
        ...

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt from scratch; return the likeliest next token."""
        ...

    def hold(self, ids: list[int]) -> int:
        """Bring the cache to exactly these tokens, reading what is new; the likeliest next one."""
        ...

    def step(self, token_id: int) -> int:
        """Append a token; return the likeliest next one."""
        ...

    def streams(self, prompts: Sequence[list[int]], room: int, *, unified: bool) -> Streams:
        """Sequences that begin with prompts of one length, with room for so many tokens more."""
        ...

    def facts(self) -> dict[str, int]:
        """Sizes that rates are put in relation to."""
        ...

    def products(self, n_rows: int) -> dict[str, dict[str, float]]:
        """Seconds, bytes and operations of each matrix with so many rows of activations."""
        ...


class Ours:
    """The engine of this package."""

    def __init__(self, path: str, n_threads: int, **settings: Any) -> None:
        from deepseek.engine.loader import load_engine

        self._engine, _ = load_engine(path, threads=n_threads, **settings)

    def tokens(self, text: str) -> list[int]:
        """Token ids."""
        return self._engine.tokenizer.encode(text)

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt from scratch; return the likeliest next token."""
        self._engine.forget()
        return self.hold(ids)

    def hold(self, ids: list[int]) -> int:
        """Bring the cache to exactly these tokens, reading what is new; the likeliest next one."""
        return int(self._engine.runner.read(ids).argmax())

    def step(self, token_id: int) -> int:
        """Append a token; return the likeliest next one."""
        return int(self._engine.runner.step(token_id).argmax())

    def streams(self, prompts: Sequence[list[int]], room: int, *, unified: bool) -> Streams:
        """Sequences that begin with prompts; `unified` is llama.cpp's affair."""
        return OurStreams(self._engine.runner.model, prompts)

    def facts(self) -> dict[str, int]:
        """Packed bytes and multiplications of all matrices, and bytes that a position caches."""
        return sizes_of(self._engine)

    def products(self, n_rows: int) -> dict[str, dict[str, float]]:
        """Seconds, bytes and operations of each matrix with so many rows of activations."""
        from roofline import product_times

        return product_times(self._engine.runner.model, n_rows)


def sizes_of(engine: Any) -> dict[str, int]:
    """Packed bytes and multiplications of all matrices, and bytes that a position caches."""
    from deepseek.model.linear import Linear
    from deepseek.ops.linear import QuantisedWeight

    model = engine.runner.model
    config = model.config
    packed = [
        m.packed
        for m in model.modules()
        if isinstance(m, Linear) and isinstance(m.packed, QuantisedWeight)
    ]
    head = model.head.packed
    return {
        "weight_bytes": sum(weight.n_bytes for weight in packed),
        "weights": sum(n_out * n_in for n_out, n_in in (w.shape for w in packed)),
        "head_weights": head.shape[0] * head.shape[1] if head is not None else 0,
        "cache_bytes": 2 * 2 * config.n_layers * config.n_kv_heads * config.d_head,
        "attention_width": config.n_layers * config.n_heads * config.d_head,
    }


class LlamaCpp:
    """llama.cpp through llama-cpp-python."""

    def __init__(self, path: str, n_threads: int, **settings: Any) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(
            path,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            verbose=False,
            **({"n_ctx": 8_192} | settings),
        )
        self._held: list[int] = []

    def tokens(self, text: str) -> list[int]:
        """Token ids."""
        return self._llama.tokenize(text.encode(), add_bos=False)

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt from scratch; return the likeliest next token."""
        self._held = []
        self._llama.reset()
        return self._eval(ids)

    def hold(self, ids: list[int]) -> int:
        """Bring the cache to exactly these tokens, reading what is new; the likeliest next one."""
        kept = 0
        while kept < min(len(self._held), len(ids) - 1) and self._held[kept] == ids[kept]:
            kept += 1
        del self._held[kept:]
        self._llama.n_tokens = kept  # `eval` removes what lies behind
        return self._eval(ids[kept:])

    def step(self, token_id: int) -> int:
        """Append a token; return the likeliest next one."""
        return self._eval([token_id])

    def streams(self, prompts: Sequence[list[int]], room: int, *, unified: bool) -> Streams:
        """Sequences that begin with prompts, in one buffer of cells or in one each."""
        return LlamaStreams(self._llama, prompts, room, unified=unified)

    def facts(self) -> dict[str, int]:
        """Nothing is derived from its sizes."""
        return {}

    def products(self, n_rows: int) -> dict[str, dict[str, float]]:
        """Its matrices cannot be timed one by one."""
        return {}

    def _eval(self, ids: list[int]) -> int:
        import llama_cpp
        import numpy as np

        self._llama.eval(ids)
        self._held += ids
        logits = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self._llama.n_vocab(),)).argmax())


KINDS: dict[str, Callable[..., Peer]] = {"ours": Ours, "llama.cpp": LlamaCpp}
