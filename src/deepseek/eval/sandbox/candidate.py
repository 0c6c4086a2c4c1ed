"""The process that runs the candidate's code and answers calls to its functions.

Nothing here is trusted once that code has run: it can change every object of its process.
All it can achieve by that is to answer with other plain data, as its functions could anyway.
"""

import os
import sys
import tempfile
import types
from typing import Any

from deepseek.eval.sandbox.codec import Channel, Closed, decode, encode

MAX_TEXT = 300


def run_candidate(channel: Channel, code: str) -> None:
    """Run a module, say how that went, and answer until nobody asks any more."""
    _settle()
    answers = _Answers()
    try:
        module = types.ModuleType("candidate")
        sys.modules["candidate"] = module  # where dataclasses look for their annotations
        exec(compile(code, "candidate.py", "exec"), module.__dict__)
        answers.names = module.__dict__
        channel.send({"value": None})
    except BaseException as error:  # sys.exit is no reason to pass either
        channel.send(_failure(error))
    while True:
        try:
            request = channel.receive()
        except Closed:
            return
        try:
            answer = answers.answer(request)
        except BaseException as error:
            answer = _failure(error)
        try:
            channel.send(answer)
        except ValueError as error:
            channel.send(_failure(error))


def _settle() -> None:
    """Make Python's idea of its surroundings that of this process."""
    os.environ |= {"HOME": os.getcwd(), "TMPDIR": os.getcwd()}
    tempfile.tempdir = None
    sys.argv = ["candidate.py"]
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 — as long as the process
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115


class _Answers:
    """The objects that the tests may ask about, and what can be asked."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self._objects: list[Any] = []  # kept, so that an address stays theirs
        self._numbers: dict[int, int] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["ask"] == "name":
            if request["name"] not in self.names:
                raise NameError(f"name {request['name']!r} is not defined")
            return {"value": self._encode(self.names[request["name"]])}
        target = self._objects[request["object"]]
        arguments = [decode(data, self._fetch) for data in request["arguments"]]
        keywords = {name: decode(data, self._fetch) for name, data in request["keywords"].items()}
        value = self._encode(_ask(request["ask"], target, arguments, keywords))
        # The tests may look at an argument that the call has changed.
        changed = [self._encode(argument) for argument in arguments]
        if changed == request["arguments"]:
            return {"value": value}
        return {"value": value, "arguments": changed}

    def _encode(self, value: Any) -> Any:
        return encode(value, self._keep)

    def _keep(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]

    def _fetch(self, number: int, name: str) -> Any:
        return self._objects[number]


def _ask(what: str, target: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    if what == "call":
        return target(*arguments, **keywords)
    if what == "get":
        return getattr(target, arguments[0])
    if what == "set":
        return setattr(target, *arguments)
    if what == "items":
        return list(target)
    if what == "item":
        return target[arguments[0]]
    if what == "length":
        return len(target)
    if what == "truth":
        return bool(target)
    raise ValueError(f"cannot {what}")


def _failure(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:MAX_TEXT]
    except Exception:
        text = ""
    return {"error": type(error).__name__, "text": text}
