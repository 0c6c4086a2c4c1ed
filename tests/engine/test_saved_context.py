"""A text that was read and saved answers as if it had been read just now."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine import what

from deepseek.core.errors import ContextError, RequestError
from deepseek.core.llm import Completion, Message, SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.runner import CHUNK
from deepseek.engine.sharing import ASKING
from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE, Hierarchy

LICENCE = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
TEXT = LICENCE[:6_000]
SMALL = Hierarchy(sinks=64, window=128, recall=256, dense=512, reach=1_024)
GREEDY = SamplingParams(max_tokens=12)
# The last one is so short that its tokens would choose alone if they were read by themselves.
QUESTIONS = ("What may I do with the Work?", "Under which conditions may I charge a fee " * 9, "?")
MODES: dict[str, Hierarchy | None] = {"dense": None, "hierarchical": SMALL}


def engine_like(engine: Engine, hierarchy: Hierarchy | None, **settings: Any) -> Engine:
    """A second engine over the same weights, with nothing in its cache."""
    given: dict[str, Any] = {
        "name": engine.name,
        "dtype": engine.runner.dtype,
        "device": engine.runner.device,
        "context_window": 8_000,
        "hierarchy": hierarchy,
        "fingerprint": engine._fingerprint,
    }
    return Engine(engine.runner.model, engine.tokenizer, **(given | settings))


def ask(engine: Engine, question: str) -> Completion:
    assert engine.context is not None
    return engine.generate(engine.context.followed_by(question), GREEDY)


@pytest.fixture(scope="module")
def quantised(smollm2_path: Path) -> Engine:
    return load_engine(str(smollm2_path), dtype="int8", threads=1)[0]


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prompt", [TEXT, [Message("system", "Be brief."), Message("user", TEXT)]])
def test_answers_equal_those_of_a_fresh_read_to_the_last_bit(
    quantised: Engine, mode: str, prompt: Any, tmp_path: Path
) -> None:
    hierarchy = MODES[mode]
    reader, later, fresh = (engine_like(quantised, hierarchy) for _ in range(3))
    context = reader.read(prompt)
    assert context.n_tokens % PAGE == 0
    ask(reader, "Something else?")
    path = tmp_path / "licence.context"
    reader.save_context(path)
    loaded = later.load_context(path)
    assert loaded == context
    for question in QUESTIONS:
        whole = loaded.followed_by(question)
        got = later.generate(whole, GREEDY)
        assert got.n_reused_tokens >= context.n_tokens - (PAGE if hierarchy is None else ASKING)
        fresh.forget()
        wanted = fresh.generate(whole, GREEDY)
        assert wanted.n_reused_tokens == 0
        assert what(got) == what(wanted)
        scores = [e.score(whole, [" yes", " no, never"]) for e in (fresh, later)]
        assert scores[0] == scores[1]


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
@pytest.mark.parametrize("kept", [1_216, CHUNK, CHUNK - PAGE, 640 + 5])
@torch.inference_mode()
def test_how_much_is_read_on_changes_no_bit(quantised: Engine, kept: int) -> None:
    """A few tokens, or few in the last chunk, would choose alone what they recall."""
    ids = quantised.encode(TEXT)
    one, other = (engine_like(quantised, SMALL).runner for _ in range(2))
    for more in (1, 9, 16, 17, 40, 72, 75, 500):
        prompt = ids[: kept + more]
        one.rewind(0)
        one.fill(prompt[:kept])
        assert kept - one.resumed_at(prompt) < 2 * PAGE
        got = one.read(prompt)
        other.rewind(0)
        assert torch.equal(got, other.read(prompt))


@pytest.mark.parametrize("mode", MODES)
def test_through_torch_it_equals_what_was_not_saved(engine: Engine, mode: str, tmp_path) -> None:
    reader, later = (engine_like(engine, MODES[mode], context_window=2_048) for _ in range(2))
    text = LICENCE[:4_000]
    context = reader.read([Message("user", text)])
    reader.save_context(tmp_path / "text.context")
    later.load_context(tmp_path / "text.context")
    for question in QUESTIONS[::2]:
        kept, got = ask(reader, question), ask(later, question)
        assert what(kept) == what(got)
        assert got.n_reused_tokens >= context.n_tokens - PAGE
        reader.read([Message("user", text)])  # the question before stays in the cache


def test_a_conversation_goes_on_from_it(engine: Engine, tmp_path: Path) -> None:
    reader, later = (engine_like(engine, None, context_window=2_048) for _ in range(2))
    reader.read([Message("user", LICENCE[:3_000])])
    reader.save_context(tmp_path / "text.context")
    context = later.load_context(tmp_path / "text.context")
    turns = list(context.followed_by("Why?"))
    answer = later.generate(turns, GREEDY)
    turns += [Message("assistant", answer.text), Message("user", "And then?")]
    assert later.generate(turns, GREEDY).n_reused_tokens >= answer.n_prompt_tokens


def test_where_questions_stand() -> None:
    from deepseek.engine.context import Context

    system, user = Message("system", "s"), Message("user", "text")
    assert Context("a text", 1).followed_by(" goes on") == "a text goes on"
    assert Context((user,), 1).followed_by("Why?") == [Message("user", "text\n\nWhy?")]
    assert Context((system,), 1).followed_by("Why?") == [system, Message("user", "Why?")]


def test_what_was_asked_meanwhile_does_not_matter(engine: Engine, tmp_path: Path) -> None:
    reader = engine_like(engine, None, context_window=2_048)
    reader.read([Message("user", LICENCE[:2_000])])
    reader.save_context(tmp_path / "one.context")
    reader.generate("Something else", GREEDY)
    reader.save_context(tmp_path / "two.context")
    one, two = ((tmp_path / f"{name}.context").read_bytes() for name in ("one", "two"))
    assert one == two


def test_nothing_to_save_and_too_little_to_read(engine: Engine, tmp_path: Path) -> None:
    reader = engine_like(engine, None, context_window=2_048)
    with pytest.raises(RequestError, match="no context was read"):
        reader.save_context(tmp_path / "x.context")
    with pytest.raises(RequestError, match="too short"):
        reader.read("A few words.")
    with pytest.raises(RequestError, match="empty"):
        reader.read("")
    with pytest.raises(RequestError, match="exceed"):
        reader.read(LICENCE * 9)
    assert reader.context is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fingerprint": lambda: "another"}, "other weights"),
        ({"fingerprint": lambda: "another", "name": "bert"}, "not by this bert"),
        ({"hierarchy": SMALL}, "was read with dense attention"),
        ({"context_window": 300}, "the context window 300"),
        ({"dtype": torch.bfloat16}, "keys and values as float32 rows"),
    ],
)
def test_what_does_not_fit_is_explained_and_loses_nothing(
    engine: Engine, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    reader = engine_like(engine, None, context_window=2_048)
    reader.read([Message("user", LICENCE[:2_000])])
    reader.save_context(tmp_path / "text.context")
    given: dict[str, Any] = {"hierarchy": None, "context_window": 2_048}
    other = engine_like(engine, **(given | settings))
    if "dtype" not in settings:  # the weights stay in float32, which torch does not mix
        other.generate("What was asked before", GREEDY)
    before = list(other.runner.tokens)
    with pytest.raises(ContextError, match=message) as caught:
        other.load_context(tmp_path / "text.context")
    assert caught.value.hint
    assert other.context is None
    assert other.runner.tokens == before


def test_a_damaged_page_leaves_an_empty_cache(engine: Engine, tmp_path: Path) -> None:
    reader = engine_like(engine, None, context_window=2_048)
    reader.read([Message("user", LICENCE[:2_000])])
    path = tmp_path / "text.context"
    reader.save_context(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)
    later = engine_like(engine, None, context_window=2_048)
    with pytest.raises(ContextError, match="another checksum"):
        later.load_context(path)
    wanted = engine_like(engine, None).generate("What is this?", GREEDY)
    assert what(later.generate("What is this?", GREEDY)) == what(wanted)
