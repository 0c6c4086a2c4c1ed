"""The program that renders one chat template, in a process of its own.

It is run as a file and imports nothing of the package that takes time, no torch. It reads one JSON
object a line (the template first, then conversations) and answers each with one line.
`template_process.py` is its other end.
"""

import datetime
import json
import sys
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from deepseek.core.answering import limit_memory, limit_time, reply

MEMORY_BYTES = 1 << 30


class Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 — jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """Keep the body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with an error where jinja2 would go on with an empty value."""

    def unsafe_undefined(self, obj: object, attribute: str) -> jinja2.Undefined:
        """Refuse an attribute that leads to Python's internals."""
        raise jinja2.exceptions.SecurityError(f"access to {attribute!r} is not allowed")


class Namespace(jinja2.utils.Namespace):
    """`namespace()` without names that lead to Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a field may be called `self`
        self, *rest = args
        fields = dict(*rest, **kwargs)
        for name in fields:
            _check_field(name)
        jinja2.utils.Namespace.__init__(self, fields)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_field(name)
        super().__setitem__(name, value)


def _check_field(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the field {name!r}")


def main() -> None:
    """Limit the process, compile the template, render until the input ends."""
    limit_memory(MEMORY_BYTES)
    reply({"ready": True})
    setup = json.loads(sys.stdin.readline())
    try:
        limit_time(setup["seconds"], by_clock=True)
        template = compile_template(setup["template"])
    except Exception as error:
        reply({"error": _reason(error)})
        return
    reply({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            limit_time(request["seconds"], by_clock=True)
            reply({"text": _render(template, setup, request)})
        except Exception as error:
            reply({"error": _reason(error)})


def compile_template(source: str) -> Any:
    """A sandboxed template with the globals that Hugging Face's templates expect."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": Namespace,
    }
    return environment.from_string(source)


def _render(template: Any, setup: dict[str, Any], request: dict[str, Any]) -> str:
    pieces, size = [], 0
    for piece in template.generate(
        messages=request["messages"],
        add_generation_prompt=request["add_generation_prompt"],
        bos_token=setup["bos"],
        eos_token=setup["eos"],
        tools=None,
        documents=None,
    ):
        size += len(piece)
        if size > request["max_characters"]:
            raise ValueError("it writes too much")
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


if __name__ == "__main__":
    main()
