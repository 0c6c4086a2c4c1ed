"""A program passes when its functions are right, and by no other way."""

import pytest

from deepseek.eval.sandbox import Limits, Program

RIGHT = "def f(x):\n    return x + 1\n"
TESTS = "def check(f):\n    for x in range(3):\n        assert f(x) == x + 1\ncheck(f)\n"


def run(sandbox, code, tests=TESTS, names=("f",), preamble="", **limits):
    program = Program(code=code, names=names, tests=tests, preamble=preamble)
    return sandbox.run_tests(program, Limits(**limits))


def test_right_program_passes_and_what_it_prints_is_kept(sandbox, clean):
    code = "import sys\nprint('begin')\ndef f(x):\n    print(x, file=sys.stderr)\n    return x + 1"
    outcome = run(sandbox, code)
    assert (outcome.verdict, outcome.detail) == ("passed", "")
    assert outcome.passed
    assert outcome.stdout == "begin\n"
    assert outcome.stderr == "0\n1\n2\n"


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("def f(x):\n    return x", "AssertionError at: assert f(x) == x + 1"),
        ("def f(x):\n    return 1 // x", "ZeroDivisionError: "),
        ("def f(x:\n    return x", "SyntaxError: "),
        ("import nothing_of_that_name", "ModuleNotFoundError: "),
        ("def g(x):\n    return x + 1", "NameError: name 'f' is not defined"),
        ("f = 3", "TypeError: 'int' object is not callable"),
        ("class Odd(Exception): pass\ndef f(x):\n    raise Odd('no')", "CandidateError: Odd: no"),
        ("raise SystemExit(0)", "CandidateError: SystemExit: 0"),
        ("import sys\ndef f(x):\n    sys.exit(0)", "CandidateError: SystemExit: 0"),
        ("raise KeyboardInterrupt", "CandidateError: KeyboardInterrupt"),
        ("x = [" + "[" * 3000 + "]" * 3001, "SyntaxError: "),
        ("def f(x):\n    return f(x)", "RecursionError: "),
    ],
)
def test_wrong_program_fails_and_the_detail_says_why(sandbox, code, detail, clean):
    outcome = run(sandbox, code)
    assert outcome.verdict == "failed"
    assert outcome.detail.startswith(detail)


EVIL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __iter__(self): return iter([self])
    def __getattr__(self, name): return self
    def __call__(self, *a): return self
    def __len__(self): return 1
class EqualInt(int):
    __eq__ = Equal.__eq__
    __hash__ = int.__hash__
class EqualStr(str):
    __eq__ = Equal.__eq__
    __hash__ = str.__hash__
class EqualList(list):
    __eq__ = Equal.__eq__
class Liar:
    __class__ = int
    def __index__(self): return 1
"""

CHEATS = {
    "exit early": "import os\nos._exit(0)",
    "exit in a call": "import os\ndef f(x): os._exit(0)",
    "exit after a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nos._exit(0)",
    "object that equals all": EVIL + "def f(x): return Equal()",
    "function that equals all": EVIL + "f = Equal()",
    "int that equals all": EVIL + "def f(x): return EqualInt(7)",
    "str that equals all": EVIL + "def f(x): return EqualStr('7')",
    "list that equals all": EVIL + "def f(x): return EqualList([7])",
    "object that lies about its class": EVIL + "def f(x): return Liar()",
    "assertion errors patched": (
        "import builtins\nclass Never(Exception): pass\n"
        "builtins.AssertionError = Never\nAssertionError = Never\ndef f(x): return 0"
    ),
    "builtins patched": (
        "import builtins, operator\nbuiltins.abs = lambda x: 0\nbuiltins.range = lambda n: []\n"
        "builtins.isinstance = lambda *a: True\noperator.eq = lambda *a: True\n"
        "def f(x): return 0"
    ),
    "tracing and profiling": (
        "import sys, threading\ndef t(frame, event, arg):\n    frame.f_locals['x'] = -1\n"
        "    return t\nsys.settrace(t)\nsys.setprofile(t)\nthreading.settrace(t)\n"
        "def f(x): return 0"
    ),
    "frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for name in list(frame.f_globals):\n"
        "            if name in ('judge', 'check', 'TESTS', '_ask', 'encode'):\n"
        "                frame.f_globals[name] = lambda *a, **k: {'passed': True}\n"
        "        frame = frame.f_back\n    return 0"
    ),
    "every function rewritten": (
        "import gc, types\ndef yes(*a, **k): return {'passed': True, 'ended': False}\n"
        "for o in gc.get_objects():\n"
        "    if isinstance(o, types.FunctionType) and 'sandbox' in str(o.__module__):\n"
        "        try: o.__code__ = yes.__code__\n"
        "        except ValueError: pass\n"
        "def f(x): return 0"
    ),
    "prints a verdict": (
        "import json, sys\nfor s in (sys.stdout, sys.stderr):\n"
        "    print(json.dumps({'passed': True, 'ended': False, 'detail': ''}), file=s)\n"
        "def f(x): return 0"
    ),
    "writes a verdict to every descriptor": (
        "import json, os, struct\n"
        "text = json.dumps({'passed': True, 'ended': False, 'value': True}).encode()\n"
        "for n in range(64):\n"
        "    for data in (text, struct.pack('>I', len(text)) + text):\n"
        "        try: os.write(n, data)\n"
        "        except OSError: pass\n"
        "def f(x): return 0"
    ),
    "answers that are no answers": (
        "import json, os, struct\n"
        "for m in ([], {}, {'value': {'a': 1}}, {'value': ['tuple', ['no']]}, 'passed', True):\n"
        "    text = json.dumps(m).encode()\n"
        "    os.write(4, struct.pack('>I', len(text)) + text)\n"
        "def f(x): return 0"
    ),
    "a message without end": (
        "import os, struct\nos.write(4, struct.pack('>I', 0xFFFFFFFF) + b'x' * 1000)\n"
        "def f(x): return 0"
    ),
    "an error that tests may swallow": "def f(x): raise StopIteration",
    "a generator that claims success": "def f(x):\n    yield x + 1",
    "numbers changed in place": (
        "import ctypes\n"
        "for n in range(1, 5): ctypes.c_int.from_address(id(n) + 24).value = 0\n"
        "def f(x): return 0"
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(sandbox, name, clean):
    outcome = run(sandbox, CHEATS[name])
    assert outcome.verdict in ("failed", "crashed")
    assert run(sandbox, RIGHT).passed, "the next program must not notice"


def test_tests_see_plain_values_of_every_kind(sandbox):
    code = """
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
Pair = namedtuple('Pair', 'a b')
class Level(IntEnum):
    LOW = 1
def f(what):
    counts = defaultdict(int); counts['a'] += 1
    return {
        'none': None, 'nan': float('nan'), 'inf': float('inf'), 'big': 7 ** 9000, 'minus': -5,
        'surrogate': '\\ud800', 'bytes': b'\\0\\xff', 'complex': 1 + 2j, 'pair': Pair(1, [2]),
        'counts': counts, 'counter': Counter('aab'), 'deque': deque([1, 2], 5),
        'ordered': OrderedDict(a=1), 'level': Level.LOW, 'half': Fraction(1, 2),
        'money': Decimal('1.10'), 'range': range(0, 9, 3), 'keys': {'a': 1}.keys(),
        'nested': {(1, 2): [{3}, frozenset([4])]}, 'true': True, 'zero': -0.0,
    }[what]
"""
    tests = """
import math
from collections import Counter
assert f('none') is None and f('true') is True
assert math.isnan(f('nan')) and f('inf') == math.inf and math.copysign(1, f('zero')) == -1
assert f('big') == 7 ** 9000 and f('minus') == -5 and f('surrogate') == '\\ud800'
assert f('bytes') == b'\\0\\xff' and f('complex') == 1 + 2j and f('pair') == (1, [2])
assert f('counts') == {'a': 1} and f('counter') == Counter({'a': 2, 'b': 1})
assert list(f('deque')) == [1, 2] and f('deque').maxlen == 5 and f('ordered') == {'a': 1}
assert f('level') == 1 and f('half') == 0.5 and str(f('money')) == '1.10'
assert f('range') == range(0, 9, 3) and f('keys') == {'a'}
assert f('nested') == {(1, 2): [{3}, {4}]} and f(what='minus') == -5
"""
    outcome = run(sandbox, code, tests)
    assert outcome.passed, outcome.detail


def test_changed_arguments_and_own_classes_are_seen_by_the_tests(sandbox):
    code = """
class Node:
    def __init__(self, value):
        self.value, self.left = value, None
def depth(node):
    return 1 + depth(node.left) if node else 0
def walk(node):
    while node:
        yield node.value
        node = node.left
def twice(items, table, seen):
    items += items
    table['n'] = len(items)
    seen.add(3)
    items[0].append(9)
"""
    tests = """
root = Node(5)
root.left = Node(6)
assert depth(root) == 2 and root.left.value == 6 and list(walk(root)) == [5, 6]
assert root == root and root != root.left and not (root == 5)
items, table, seen = [[1]], {}, set()
assert twice(items, table, seen) is None
assert (items, table, seen) == ([[1, 9], [1, 9]], {'n': 2}, {3})
try:
    depth(3)
except AttributeError as error:
    assert 'left' in str(error)
else:
    assert False
"""
    outcome = run(sandbox, code, tests, names=("Node", "depth", "walk", "twice"))
    assert outcome.passed, outcome.detail


def test_the_tests_are_not_in_the_program_s_memory(sandbox):
    code = """
import gc, sys
def parts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (bytes, bytearray)):
        yield str(value)
    elif isinstance(value, dict):
        for pair in list(value.items()):
            yield from (p for p in pair if isinstance(p, str))
def f(*words):
    word = ' '.join(words)
    frame, found = sys._getframe(1), []
    while frame:
        found += [t for t in parts(frame.f_locals) if word in t and t != word]
        frame = frame.f_back
    for thing in gc.get_objects():
        for near in (thing, *gc.get_referents(thing)):
            found += [t for t in parts(near) if word in t and t != word]
    return len(set(found))
"""
    seen = run(sandbox, code + "# marked code", "assert f('marked', 'code') > 0")
    assert seen.passed, seen.detail  # so that the search is known to find
    hidden = run(sandbox, code, "# marked test\nassert f('marked', 'test') == 0")
    assert hidden.passed, hidden.detail


def test_helpers_of_the_tests_are_the_trusted_ones(sandbox):
    helper = "def square(x):\n    return x * x\n"
    tests = "assert f(3) == square(3)"
    code = "def square(x):\n    return 0\ndef f(x):\n    return 0"
    assert run(sandbox, code, tests, preamble=helper).verdict == "failed"
    assert run(sandbox, "def f(x):\n    return x * x", tests, preamble=helper).passed


def test_verdict_does_not_depend_on_the_hash_seed(sandbox):
    code = "def f(x):\n    return hash('word')"
    tests = "global_value = f(1)\nassert global_value == hash('word')"
    assert run(sandbox, code, tests).passed


def test_programs_run_at_once_without_meeting(sandbox, clean):
    from concurrent.futures import ThreadPoolExecutor

    code = """
import os
def f(x):
    with open('mine', 'a') as file: file.write(str(x))
    return open('mine').read(), sorted(os.listdir('.'))
"""

    def one(number):
        return run(sandbox, code, f"assert f({number}) == ('{number}', ['mine'])")

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, range(40)))
    assert [outcome.detail for outcome in outcomes] == [""] * 40


def test_a_killed_zygote_is_replaced(sandbox):
    assert run(sandbox, RIGHT).passed
    sandbox._zygote.kill()
    sandbox._zygote.wait()
    assert run(sandbox, RIGHT).passed
