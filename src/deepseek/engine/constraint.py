"""Keeps answers to a form: compiles constraints and says which tokens may come next.

The work is done by the library llguidance. Text that has one way to go on is cut into tokens as
the tokenizer cuts it, so that the model reads what it has been trained on.
"""

import functools
import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from torch import Tensor

from deepseek.core.constraint import Constraint
from deepseek.core.errors import RequestError
from deepseek.engine.grammar_trial import GrammarTrial
from deepseek.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_KEPT = 64
"""Compiled constraints in memory."""
MAX_LEXER_STATES = 50_000
"""One takes 1 to 2 kB."""
LIMITS: dict[str, Any] = {"max_lexer_states": MAX_LEXER_STATES, "verbose_errors": False}
# One line as Python's json.dumps writes it: flexible whitespace never needs to end.
JSON_OPTIONS: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
}
HINTS = {
    "json_schema": "use type, properties, items, enum, const, anyOf, $ref, minimum, pattern, …; "
    "make it smaller if it is too large",
    "regex": "use the syntax of Rust's regex: no look-around or backreferences, small repeats",
    "grammar": "use Lark's syntax with a rule start; make it smaller if it is too large",
    "choice": "give shorter or fewer choices",
}


class Matcher:
    """How far one answer has come in its constraint."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._forced: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher.is_stopped()

    @property
    def error(self) -> str:
        """Why the constraint cannot be followed any further; empty if it can."""
        return str(self._matcher.get_error()).split("\n", 1)[0]

    def forced_tokens(self) -> list[int]:
        """The tokens that come next whatever the model says; none if there is a choice."""
        if not self._forced and not self.is_complete:
            self._forced = self._matcher.compute_ff_tokens()
        return list(self._forced)

    def allowed(self, n_tokens: int) -> Bool[Tensor, " V"]:
        """Which tokens of a vocabulary of that size may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        found = torch.from_numpy(np.unpackbits(bits, bitorder="little")[:n_tokens]).bool()
        # Models may have more rows than there are tokens.
        return torch.nn.functional.pad(found, (0, n_tokens - len(found)))

    def n_fitting(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens may come next."""
        return int(self._matcher.validate_tokens(list(token_ids)))

    def accept(self, token_id: int) -> None:
        """Go on by one token that is allowed."""
        self._forced = self._forced[1:]
        self._matcher.consume_token(token_id)


class Grammars:
    """Compiles constraints for one tokenizer, and keeps the last ones."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokens = [_usable_bytes(tokenizer, i) for i in range(tokenizer.vocab_size)]
        ends = sorted(tokenizer.eos_ids)
        special = sorted(tokenizer.control_ids | tokenizer.eos_ids)
        vocabulary = _Vocabulary(tokenizer, tokens, special, ends[0])
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=ends)
        self._limits = LLParserLimits(**LIMITS)
        self._trial = GrammarTrial(tokens, special, ends, LIMITS)
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, constraint: Constraint) -> Matcher:
        """The beginning of an answer.

        Raises:
            RequestError: The constraint is wrong, not supported, impossible or too complex.
        """
        with self._lock:
            found = self._compiled.get(constraint)
        if found is None:
            found = self._compile(constraint)  # others need not wait for it
        with self._lock:
            self._compiled[constraint] = found
            self._compiled.move_to_end(constraint)
            while len(self._compiled) > MAX_KEPT:
                self._compiled.popitem(last=False)
            return Matcher(found.deep_copy())

    def _compile(self, constraint: Constraint) -> LLMatcher:
        grammar = grammar_of(constraint)
        # Choices are bounded in number and length, and have no way to be complex.
        error = "" if constraint.kind == "choice" else self._trial.error(grammar)
        if not error:
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
            matcher.compute_bitmask()
            error = matcher.get_error()
        if error:
            raise _refused(constraint, error)
        return matcher


def _usable_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """What a token stands for; nothing if it never may come.

    The library marks special tokens by the byte FF, which is no part of any UTF-8.
    """
    found = tokenizer.token_bytes(token_id)
    return b"" if token_id in tokenizer.unused_ids or b"\xff" in found else found


class _Vocabulary:
    """A tokenizer as the library wants to see it."""

    bos_token_id = None

    def __init__(
        self, tokenizer: Tokenizer, tokens: list[bytes], special: list[int], end: int
    ) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special, end
        # The library's object cannot be freed in a cycle.
        self._encode = weakref.WeakMethod(tokenizer.encode)

    def __call__(self, text: bytes) -> list[int]:
        encode = self._encode()
        assert encode is not None
        return encode(text.decode("utf-8", "replace"))


_GRAMMARS: "weakref.WeakKeyDictionary[Tokenizer, Grammars]" = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def grammars_of(tokenizer: Tokenizer) -> Grammars:
    """The compiler for a tokenizer, made at the first use."""
    with _LOCK:
        if tokenizer not in _GRAMMARS:
            _GRAMMARS[tokenizer] = Grammars(tokenizer)
        return _GRAMMARS[tokenizer]


def check_constraint(constraint: Constraint) -> None:
    """Find what can be found without a vocabulary, e.g. before a model is loaded.

    A grammar may name a model's own tokens: it is looked at when the model is there.

    Raises:
        RequestError: The constraint is wrong or not supported.
    """
    error = "" if constraint.kind == "grammar" else _byte_trial().error(grammar_of(constraint))
    if error:
        raise _refused(constraint, error)


@functools.cache
def _byte_trial() -> GrammarTrial:
    return GrammarTrial([*(bytes([i]) for i in range(255)), b"<end>"], [255], [255], LIMITS)


def grammar_of(constraint: Constraint) -> str:
    """A constraint in the library's own form.

    Raises:
        RequestError: It cannot be written so, e.g. nested too deeply.
    """
    try:
        if constraint.kind == "json_schema":
            return str(LLMatcher.grammar_from_json_schema(constraint.source, None, JSON_OPTIONS))
        if constraint.kind == "regex":
            return str(LLMatcher.grammar_from_regex(constraint.source))
        if constraint.kind == "choice":
            lines = " | ".join(json.dumps(choice) for choice in constraint.choices)
            return str(LLMatcher.grammar_from_lark(f"start: {lines}"))
        return str(LLMatcher.grammar_from_lark(constraint.source))
    except ValueError as error:
        raise _refused(constraint, str(error)) from None


def _refused(constraint: Constraint, error: Any) -> RequestError:
    lines = [line.strip() for line in str(error).splitlines()]
    # The library quotes a wrong expression before it says what is wrong.
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    what = "".join(said[:1] or lines[:1])[:300]
    if what.startswith("NoExtension"):
        what = "no text has this form"
    return RequestError(f"the {constraint.name} cannot be used: {what}", HINTS[constraint.kind])
