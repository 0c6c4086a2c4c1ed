"""The process that runs the tests, where the candidate's code cannot reach them.

The tests see the candidate's functions as proxies. A call sends plain data to the other
process and takes plain data back, so an assertion compares Python's own types here: neither a
patched `assert`, `==` or `isinstance` nor an early exit over there can make it hold.
"""

import builtins
from typing import Any

from deepseek.eval.sandbox.codec import Channel, Closed, decode, encode

MAX_TEXT = 500


class CandidateError(Exception):
    """An exception of the candidate that Python itself does not know."""


def judge(channel: Channel, names: list[str], preamble: str, tests: str) -> dict[str, Any]:
    """Run the tests: whether they passed, and why not."""
    candidate = _Candidate(channel)
    try:
        candidate.hear()  # whether the module could be run at all
        scope: dict[str, Any] = {"__name__": "tests"}
        exec(compile(preamble, "preamble.py", "exec"), scope)
        scope |= {name: candidate.name(name) for name in names}
        exec(compile(tests, "tests.py", "exec"), scope)
    except Closed:
        return {"passed": False, "ended": True, "detail": "the program ended early"}
    except BaseException as error:
        return {"passed": False, "ended": False, "detail": _describe(error, tests)}
    return {"passed": True, "ended": False, "detail": ""}


def _describe(error: BaseException, tests: str) -> str:
    """The exception, and the line of the tests at which it came."""
    step, line = error.__traceback__, 0
    while step is not None:
        if step.tb_frame.f_code.co_filename == "tests.py":
            line = step.tb_lineno
        step = step.tb_next
    lines = tests.splitlines()
    where = f" at: {lines[line - 1].strip()}" if 0 < line <= len(lines) else ""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return (text + where)[:MAX_TEXT]


class _Candidate:
    """The other process, as seen from here."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def name(self, name: str) -> Any:
        """What the candidate's module has under a name, or what raises NameError when used."""
        self._channel.send({"ask": "name", "name": name})
        try:
            value = self.hear()["value"]
        except NameError:
            return _Missing(name)
        return decode(value, self._fetch)

    def ask(self, what: str, number: int, arguments: Any, keywords: dict[str, Any]) -> Any:
        """Ask for something about an object over there.

        Raises:
            Exception: Whatever it raised.
        """
        request = {
            "ask": what,
            "object": number,
            "arguments": [encode(argument, _number_of) for argument in arguments],
            "keywords": {name: encode(value, _number_of) for name, value in keywords.items()},
        }
        self._channel.send(request)
        answer = self.hear()
        if "arguments" in answer:
            for argument, data in zip(arguments, answer["arguments"], strict=True):
                _become(argument, decode(data, self._fetch))
        return decode(answer["value"], self._fetch)

    def hear(self) -> dict[str, Any]:
        """The next answer, if it is no failure."""
        answer = self._channel.receive()
        if not isinstance(answer, dict):
            raise ValueError("the answer is no object")
        if "error" in answer:
            raise _exception(str(answer["error"]), str(answer.get("text", "")))
        return answer

    def _fetch(self, number: int, kind: str) -> Any:
        return Remote(self, number, kind)


class Remote:
    """An object of the candidate: it can be used, and it equals nothing but itself."""

    __slots__ = ("_candidate", "_kind", "_number")

    def __init__(self, candidate: _Candidate, number: int, kind: str) -> None:
        object.__setattr__(self, "_candidate", candidate)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_kind", kind)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call it over there."""
        return self._candidate.ask("call", self._number, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of itself, e.g. when it copies
            raise AttributeError(name)
        return self._candidate.ask("get", self._number, (name,), {})

    def __setattr__(self, name: str, value: Any) -> None:
        self._candidate.ask("set", self._number, (name, value), {})

    def __iter__(self) -> Any:
        return iter(self._expect(list, "items"))

    def __getitem__(self, key: Any) -> Any:
        return self._candidate.ask("item", self._number, (key,), {})

    def __len__(self) -> int:
        length: int = self._expect(int, "length")
        return length

    def __bool__(self) -> bool:
        truth: bool = self._expect(bool, "truth")
        return truth

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._number == other._number

    def __hash__(self) -> int:
        return hash(self._number)

    def __repr__(self) -> str:
        return f"<{self._kind}>"

    def _expect(self, kind: type, what: str) -> Any:
        value = self._candidate.ask(what, self._number, (), {})
        if not isinstance(value, kind):
            raise TypeError(f"{what} of {self._kind} is no {kind.__name__}")
        return value


class _Missing:
    """A name that the candidate's module does not define."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Raise as Python would."""
        raise NameError(f"name {self._name!r} is not defined")


def _number_of(value: Any) -> int:
    if not isinstance(value, Remote):
        raise TypeError(f"a test gives the program a {type(value).__name__}, which cannot cross")
    number: int = value._number
    return number


def _become(old: Any, new: Any) -> None:
    """Give a mutable argument the content that the call has left it with."""
    if isinstance(old, list) and isinstance(new, list):
        old[:] = new
    elif isinstance(old, dict | set) and type(old) is type(new):
        old.clear()
        old.update(new)
    elif isinstance(old, tuple) and isinstance(new, tuple):
        for old_part, new_part in zip(old, new, strict=False):
            _become(old_part, new_part)


def _exception(name: str, text: str) -> Exception:
    """An exception of Python's own of that name, or one that stands for it."""
    cls = getattr(builtins, name, None)
    if isinstance(cls, type) and issubclass(cls, Exception):
        try:
            return cls(text)
        except TypeError:  # UnicodeDecodeError and its like want more than a text
            pass
    return CandidateError(f"{name}: {text}")
