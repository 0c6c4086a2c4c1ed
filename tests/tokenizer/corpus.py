"""10,000 lines for tokenizers: prose, code, Chinese, emoji and control characters.

Prose and code are what every machine with the development tools has: the standard library, its
manual, and the descriptions and licences of installed packages. The choice is seeded.
"""

import random
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

N_CODE, N_PROSE, N_CHINESE, N_EMOJI, N_CONTROL = 4_000, 3_000, 1_000, 1_000, 1_000
MAX_CHARACTERS = 1_000
CHINESE = Path(__file__).with_name("chinese.txt")
SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000"
INVISIBLE = "\0\x01\x04\x07\b\x1b\x7f\x80\x9f\xad\u200b\u200c\u200d\u200e\u202e\u2060\u2066\ufeff"
ODD = "\u0301\u0327\u20dd\u0e33\ue000\uf8ff\ufffd\ufffe\uffff\U000e0041\U000f0000\U0010ffff"


@cache
def corpus() -> tuple[str, ...]:
    """All lines, the same on every call and in every run on one installation."""
    rng = random.Random("corpus")
    lines = [
        *_chosen(_code(), N_CODE, rng),
        *_chosen(_prose(), N_PROSE, rng),
        *_repeated(_chinese, N_CHINESE, rng),
        *_repeated(_emoji, N_EMOJI, rng),
        *_repeated(_control, N_CONTROL, rng),
    ]
    assert len(lines) == 10_000
    return tuple(lines)


def _lines(paths: Iterator[Path]) -> list[str]:
    """Different lines of readable files, in a fixed order."""
    seen: dict[str, None] = {}
    for path in sorted(paths):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        seen |= dict.fromkeys(line for line in text.split("\n") if line.strip())
    return [line[:MAX_CHARACTERS] for line in seen]


def _code() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    return _lines(
        p for folder in (".", "json", "asyncio", "email") for p in (root / folder).glob("*.py")
    )


def _prose() -> list[str]:
    manual = Path(sysconfig.get_path("stdlib"), "pydoc_data", "topics.py")
    installed = Path(sysconfig.get_path("purelib"))
    described = [
        path
        for name in ("METADATA", "LICENSE", "LICENSE.txt", "LICENSE.md", "AUTHORS.txt")
        for path in installed.rglob(f"*.dist-info/**/{name}")
    ]
    return _lines(iter([manual, *described]))


def _chosen(lines: list[str], n: int, rng: random.Random) -> list[str]:
    return rng.sample(lines, n)


def _repeated(
    make: Callable[[random.Random], Iterator[str]], n: int, rng: random.Random
) -> list[str]:
    """The first n of endlessly many lines."""
    lines: list[str] = []
    while len(lines) < n:
        lines += make(rng)
    return lines[:n]


def _chinese(rng: random.Random) -> Iterator[str]:
    """Real lines, and the same cut, joined and mixed with others anew each time."""
    real = CHINESE.read_text(encoding="utf-8").splitlines()
    code = corpus_code_lines()
    for line in real:
        start = rng.randrange(len(line))
        yield line
        yield line[start:] + rng.choice(("", " ", "\n", "　", "\t")) + rng.choice(real)
        yield f"{rng.choice(code)}  # {line[:start]}"
        yield line[:start] + str(rng.randrange(10_000)) + line[start:] + rng.choice("abc ABC")
    yield "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(40))


@cache
def corpus_code_lines() -> tuple[str, ...]:
    return tuple(_code()[::50])


@cache
def _pictures() -> tuple[str, ...]:
    symbols = (chr(c) for c in (*range(0x2600, 0x27C0), *range(0x1F300, 0x1FAF9)))
    return tuple(s for s in symbols if unicodedata.category(s) == "So")


def _emoji(rng: random.Random) -> Iterator[str]:
    """Single ones, with skin tones, joined to families, flags, keycaps, and among words."""
    pictures, code = _pictures(), corpus_code_lines()
    one, two, three = rng.sample(pictures, 3)
    flag = "".join(chr(0x1F1E6 + rng.randrange(26)) for _ in range(2))
    yield f"{unicodedata.name(one)} {one}"
    yield one + chr(0x1F3FB + rng.randrange(5)) + two + "\ufe0f" + three
    yield "\u200d".join((one, two, three)) + f"{rng.randrange(10)}\ufe0f\u20e3"
    yield f"{flag} {one * rng.randrange(1, 9)}!"
    yield f"{rng.choice(code)} {two}{three}"


def _control(rng: random.Random) -> Iterator[str]:
    """Real lines with spaces, invisible and odd characters put into them, and those alone."""
    line = list(rng.choice(corpus_code_lines()))
    for _ in range(rng.randrange(1, 6)):
        characters = rng.choice((SPACES, INVISIBLE, ODD))
        line.insert(rng.randrange(len(line) + 1), rng.choice(characters) * rng.randrange(1, 4))
    yield "".join(line)
    yield "".join(rng.choice(SPACES + INVISIBLE + ODD) for _ in range(rng.randrange(1, 30)))
    yield "".join(rng.choice(SPACES) for _ in range(rng.randrange(1, 12))) + "end"
    yield "".join(chr(_scalar(rng)) for _ in range(rng.randrange(1, 40)))


def _scalar(rng: random.Random) -> int:
    """Any character of Unicode, the short ones more often; no surrogates."""
    code = rng.randrange(rng.choice((0x80, 0x800, 0x10000, 0x110000)))
    return code if not 0xD800 <= code <= 0xDFFF else 0xFFFD
