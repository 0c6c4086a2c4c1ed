"""The program that tries a grammar before the engine takes it, in a process of its own.

It is run as a file and imports nothing of the package that takes time. It reads one JSON object a
line (the vocabulary first, then grammars) and answers each with one line; `grammar_trial.py` is
its other end. A grammar that takes too long ends this process and no other.
"""

import json
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from deepseek.core.answering import limit_memory, limit_time, reply

MEMORY_BYTES = 2 << 30


class Vocabulary:
    """Tokens as the library wants them; how text is cut does not matter here."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], ends: list[int]) -> None:
        self.tokens, self.special_token_ids = tokens, special
        self.eos_token_id = ends[0]
        self._ids = {token: i for i, token in enumerate(tokens)}

    def __call__(self, text: bytes) -> list[int]:
        """One token a byte, where there is one."""
        single = (bytes([byte]) for byte in text)
        return [self._ids[byte] for byte in single if byte in self._ids]


def main() -> None:
    """Limit the process, take the vocabulary, try grammars until the input ends."""
    limit_memory(MEMORY_BYTES)
    reply({"ready": True})
    setup = json.loads(sys.stdin.readline())
    limit_time(setup["seconds"])
    tokens = [token.encode("latin-1") for token in setup["tokens"]]
    wrapper = TokenizerWrapper(Vocabulary(tokens, setup["special"], setup["ends"]))
    tokenizer = LLTokenizer(wrapper, eos_token=setup["ends"])
    limits = LLParserLimits(**setup["limits"])
    reply({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        limit_time(request["seconds"])
        reply({"error": trial(tokenizer, request["grammar"], limits, request["n_steps"])})


def trial(tokenizer: LLTokenizer, grammar: str, limits: LLParserLimits, n_steps: int) -> str:
    """What is wrong with a grammar, found by compiling it and going some steps; empty if nothing.

    Args:
        tokenizer: The vocabulary.
        grammar: As the library writes it.
        limits: Of the compiler.
        n_steps: Tokens to take: limits may be exceeded behind the first only.
    """
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    for _ in range(n_steps):
        if matcher.is_stopped():
            break
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        for end in tokenizer.eos_tokens:
            mask &= ~(1 << end)
        if matcher.is_error() or not mask:
            break
        matcher.consume_token(mask.bit_length() - 1)
    return str(matcher.get_error())


if __name__ == "__main__":
    main()
