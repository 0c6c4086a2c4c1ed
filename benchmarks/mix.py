"""What the clients of the soak do: requests of all kinds, and what must come of each.

Every request is made from the seed and its number alone, whichever thread sends it.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from threading import Lock

from deepseek.core.constraint import Constraint
from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion, Message, Prompt, SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.request import AnswerStream
from deepseek.engine.samples import samples

NEVER_LONG = 12
"""Most tokens of an answer, but for those that somebody leaves."""
LEFT_LONG = 60
"""Tokens of an answer that somebody leaves: more than are read of it."""
COLOURS = ("red", "green", "light blue")
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["licence", "notice"]}, "year": {"type": "integer"}},
    "required": ["kind"],
    "additionalProperties": False,
}


@dataclass(slots=True)
class Tally:
    """What came of the requests; any thread may add to it."""

    ended: Counter[str] = field(default_factory=Counter)
    """By kind."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why answers ended."""
    faults: int = 0
    """Requests that ended with one of the errors that were put in on purpose."""
    wrong: list[str] = field(default_factory=list)
    """What must not happen."""
    lock: Lock = field(default_factory=Lock)

    @property
    def n_ended(self) -> int:
        """Requests that came to an end."""
        return self.ended.total()


class Mix:
    """Requests by number, for one engine."""

    def __init__(
        self,
        engine: Engine,
        text: str,
        *,
        seed: int = 0,
        faults: tuple[type[Exception], ...] = (),
    ) -> None:
        """Cut beginnings that prompts share out of a text, and learn some answers. What an engine
        keeps for good, such as the processes that try templates and grammars, is there afterwards.

        Args:
            engine: Asked; nobody else asks yet.
            text: Some thousand characters of prose.
            seed: Of everything that is random.
            faults: Errors that are put in on purpose: a request may end with one of them.
        """
        self.tally = Tally()
        self._engine, self._seed, self._faults = engine, seed, faults
        generator = Random(seed)
        self._words = text.split()
        self._beginnings = [text[: generator.randrange(40, 500)] for _ in range(3)]
        self._beginnings += [text[900 : generator.randrange(1_000, 1_400)] for _ in range(2)]
        self._known = [self._prompt(generator) for _ in range(8)]
        greedy = [SamplingParams(max_tokens=4 + n) for n in range(8)]
        pairs = zip(self._known, greedy, strict=True)
        self._answers = [(p, one, engine.generate(p, one).token_ids) for p, one in pairs]
        engine.generate([Message("user", "Hello")], SamplingParams(max_tokens=1))
        engine.generate(text[:9], SamplingParams(max_tokens=1, constraint=Constraint.regex("a+")))
        kinds: dict[Callable[[Random], int], int] = {
            self._known_answer: 20,
            self._whole: 20,
            self._streamed: 15,
            self._left: 15,
            self._lost: 8,
            self._cancelled: 8,
            self._formed: 8,
            self._several: 4,
            self._many_left: 3,
            self._scored: 3,
            self._refused: 4,
        }
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def send(self, number: int) -> None:
        """Make the request of a number, see it to its end, and note what came of it."""
        generator = Random(f"{self._seed} {number}")
        (kind,) = generator.choices(self._kinds, self._weights)
        name = kind.__name__.strip("_")
        n_ended, n_faults, wrong = 1, 0, ""
        try:
            n_ended = kind(generator)
        except self._faults:
            n_faults = 1
        except AssertionError as error:
            wrong = f"{name} {number}: {error}"
        except Exception as error:  # whatever it is: nobody asked for it
            wrong = f"{name} {number}: {error!r}"
        with self.tally.lock:
            self.tally.ended[name] += n_ended
            self.tally.faults += n_faults
            self.tally.wrong += [wrong] if wrong else []

    # Each kind returns how many requests have ended.

    def _known_answer(self, generator: Random) -> int:
        prompt, params, wanted = generator.choice(self._answers)
        got = self._engine.generate(prompt, params).token_ids
        assert got == wanted, f"{got} instead of {wanted}"
        return 1

    def _whole(self, generator: Random) -> int:
        self._note(self._engine.generate(self._prompt(generator), _params(generator)))
        return 1

    def _streamed(self, generator: Random) -> int:
        stream = self._stream(generator, _params(generator))
        pieces = list(stream)
        end = pieces[-1].completion
        assert end is not None, "no completion at the end of a stream"
        self._note(end)
        text = "".join(piece.text for piece in pieces)
        assert text == end.text, f"pieces {text!r}, whole {end.text!r}"
        return 1

    def _left(self, generator: Random) -> int:
        stream = self._stream(generator, _long(generator))
        list(islice(stream, generator.choice((0, 0, 1, 2, 5))))
        stream.close()
        assert not list(stream), "a closed stream gives more"
        return 1

    def _lost(self, generator: Random) -> int:
        stream = self._stream(generator, _long(generator))
        list(islice(stream, generator.choice((0, 1, 3))))
        del stream
        return 1

    def _cancelled(self, generator: Random) -> int:
        stream = self._stream(generator, _long(generator))
        list(islice(stream, generator.choice((0, 1, 3))))
        stream.cancel()
        rest = list(stream)
        if rest:  # else it had ended before
            end = rest[-1].completion
            assert end is not None, "no completion after cancelling"
            self._note(end)
        return 1

    def _formed(self, generator: Random) -> int:
        constraint, is_right = generator.choice(
            [
                (Constraint.choice(COLOURS), COLOURS.__contains__),
                (Constraint.regex(DATE), re.compile(DATE).fullmatch),
                (Constraint.json_schema(SCHEMA), json.loads),
            ]
        )
        params = SamplingParams(
            max_tokens=NEVER_LONG,
            temperature=1.0,
            seed=generator.randrange(99),
            constraint=constraint,
        )
        end = self._engine.generate(self._prompt(generator), params)
        self._note(end)
        assert end.finish_reason != "stop" or is_right(end.text), f"form of {end.text!r}"
        return 1

    def _several(self, generator: Random) -> int:
        params = SamplingParams(max_tokens=8, temperature=1.0, seed=generator.randrange(99))
        n = generator.randrange(2, 5)
        for end in samples(self._engine.generate_many, self._prompt(generator), params, n):
            self._note(end)
        return n

    def _many_left(self, generator: Random) -> int:
        n = generator.randrange(2, 6)
        prompts = [self._prompt(generator) for _ in range(n)]
        answers = self._engine.generate_many(prompts, [_params(generator) for _ in prompts])
        for _, end in islice(answers, generator.randrange(n + 1)):
            self._note(end)
        answers.close()  # type: ignore[attr-defined]
        return n

    def _scored(self, generator: Random) -> int:
        scores = self._engine.score(self._prompt(generator), (" yes", " certainly not"))
        assert all(score.logprob < 0 for score in scores), f"{scores}"
        return 1

    def _refused(self, generator: Random) -> int:
        prompt = self._prompt(generator)
        ask = generator.choice(
            [
                lambda: self._engine.generate(prompt, SamplingParams(max_tokens=900_000)),
                lambda: self._engine.generate([]),
                lambda: self._engine.generate(prompt, SamplingParams(logit_bias={10_000_000: 1.0})),
                lambda: self._engine.generate(
                    prompt, SamplingParams(constraint=Constraint.grammar("start: 'a"))
                ),
            ]
        )
        try:
            ask()
        except RequestError:
            return 1
        raise AssertionError("a request that makes no sense was answered")

    def _stream(self, generator: Random, params: SamplingParams) -> AnswerStream:
        priority = generator.choice((0, 0, 0, 1, 3))
        stream = self._engine.stream(self._prompt(generator), params, priority=priority)
        assert isinstance(stream, AnswerStream)
        return stream

    def _prompt(self, generator: Random) -> Prompt:
        beginning = generator.choice(["", *self._beginnings])
        start = generator.randrange(len(self._words) - 30)
        own = " ".join(self._words[start : start + generator.randrange(1, 30)])
        return f"{beginning} {own}"

    def _note(self, end: Completion) -> None:
        with self.tally.lock:
            self.tally.reasons[end.finish_reason] += 1


def _params(generator: Random) -> SamplingParams:
    stop: Sequence[str] = generator.choice(((), (), (" the",), ("e", "zzz")))
    return SamplingParams(
        max_tokens=generator.randrange(1, NEVER_LONG),
        temperature=generator.choice((0.0, 1.0)),
        top_p=generator.choice((1.0, 0.9)),
        repetition_penalty=generator.choice((1.0, 1.0, 1.3)),
        seed=generator.randrange(1_000),
        stop=tuple(stop),
        logprobs=generator.choice((None, None, 2)),
    )


def _long(generator: Random) -> SamplingParams:
    return SamplingParams(max_tokens=LEFT_LONG, temperature=1.0, seed=generator.randrange(1_000))
