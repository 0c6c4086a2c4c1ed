import pickle

import pytest

from deepseek.core import errors
from deepseek.core.errors import DeepSeekError

KINDS = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, DeepSeekError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_passes_between_processes_whole(kind: type[DeepSeekError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what is wrong", "what to do")))
    assert type(copy) is kind
    assert (copy.message, copy.hint, str(copy)) == ("what is wrong", "what to do", "what is wrong")


@pytest.mark.parametrize("kind", KINDS)
def test_one_clause_catches_every_kind_and_no_bug(kind: type[DeepSeekError]) -> None:
    assert issubclass(kind, DeepSeekError)
    assert not issubclass(kind, ValueError | KeyError | OSError | RuntimeError)
    assert kind.__doc__


def test_a_hint_is_optional() -> None:
    assert DeepSeekError("what").hint == ""
