"""Runs code that nobody trusts: `run_tests(program, limits)` and `active_layers()`.

How a verdict is kept honest: the candidate's code and the tests run in two processes. The
tests' process (`judge`) calls the candidate's functions by messages of plain data (`codec`)
and evaluates its assertions on its own objects. A status, a printed word or a patched builtin
of the candidate's process decides nothing; it can only answer calls. Running both in one
process, as is usual, lets `os._exit(0)`, a patched `AssertionError` or an object that equals
everything pass.

How the machine is kept safe: see `layers`. Each layer that the kernel or the container refuses
is left out and reported; with none but limits and the process group, programs still run, as
they do in most harnesses, and whoever starts them is told so.

    harness -> zygote -> supervisor (one a run) -> judge, candidate
"""

from deepseek.eval.sandbox.harness import Sandbox, active_layers, run_tests
from deepseek.eval.sandbox.program import Layer, Limits, Outcome, Program

__all__ = ["Layer", "Limits", "Outcome", "Program", "Sandbox", "active_layers", "run_tests"]
