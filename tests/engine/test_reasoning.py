"""Reasoning is told from the answer, however the text is cut into tokens."""

import json
from typing import Any

import pytest
import torch

from deepseek.core.constraint import Constraint
from deepseek.core.llm import Completion, SamplingParams
from deepseek.engine.answer import Answer
from deepseek.engine.engine import Engine
from deepseek.tokenizer.tokenizer import Tokenizer


def favouring(tokenizer: Tokenizer, token_id: int) -> torch.Tensor:
    logits = torch.zeros(tokenizer.vocab_size)
    logits[token_id] = 10.0
    return logits


def told(
    tokenizer: Tokenizer, text: str, prompt: str = "", by_byte: bool = False, **settings: Any
) -> tuple[Completion, str, str]:
    """The answer of a model that wants to say `text` and end; what was streamed of both parts."""
    wanted = tokenizer.encode(text)
    if by_byte:
        wanted = [i for byte in text.encode() for i in single(tokenizer, byte)]
    params = SamplingParams(**({"max_tokens": 500} | settings))
    answer = Answer(tokenizer, params, tokenizer.encode(prompt))
    shown = thought = ""
    end = min(tokenizer.eos_ids)
    while answer.finish_reason is None:
        place = len(answer.token_ids)
        shown += answer.add(favouring(tokenizer, wanted[place] if place < len(wanted) else end))
        thought += answer.thought
    shown += answer.flush()
    thought += answer.thought
    completion = answer.completion(n_reused_tokens=0, prefill_seconds=0.0, decode_seconds=0.0)
    return completion, thought, shown


def single(tokenizer: Tokenizer, byte: int) -> list[int]:
    for i in range(tokenizer.vocab_size):
        if i not in tokenizer.control_ids and tokenizer.token_bytes(i) == bytes([byte]):
            return [i]
    raise AssertionError("a byte-level vocabulary has all bytes")


CASES = {
    "both": ("<think>\nFirst é 日本.\n</think>\n\nThe answer.", "First é 日本.\n", "The answer."),
    "none": ("The answer.", "", "The answer."),
    "empty": ("<think>\n\n</think>\n\nThe answer.", "", "The answer."),
    "a mark further on": ("Say <think>x</think>.", "", "Say <think>x</think>."),
    "white space first": ("\n<think>x</think>", "", "\n<think>x</think>"),
    "nearly a mark": ("<thin ice", "", "<thin ice"),
    "a part of a mark": ("<thi", "", "<thi"),
    "a mark inside": ("<think>a </thin b <think> c</think>d", "a </thin b <think> c", "d"),
    "a second one": ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    "never closed": ("<think>a and so on </th", "a and so on </th", ""),
    "nothing behind": ("<think>a</think>", "a", ""),
}


@pytest.mark.parametrize("by_byte", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_parts_are_told_apart(engine: Engine, case: str, by_byte: bool) -> None:
    text, reasoning, answer = CASES[case]
    completion, thought, shown = told(engine.tokenizer, text, by_byte=by_byte)
    assert (completion.reasoning, completion.text) == (reasoning, answer)
    assert (thought, shown) == (reasoning, answer)
    assert completion.finish_reason == "stop"
    assert engine.decode(completion.token_ids) == text
    assert bool(completion.n_reasoning_tokens) == text.startswith("<think>")


@pytest.mark.parametrize("prompt", ["Why?\n<think>", "Why?\n<think>\n"])
def test_a_prompt_may_open_reasoning(engine: Engine, prompt: str) -> None:
    completion, *_ = told(engine.tokenizer, "As it is.</think>Because.", prompt)
    assert (completion.reasoning, completion.text) == ("As it is.", "Because.")
    closed, *_ = told(engine.tokenizer, "As it is.</think>", prompt + "</think>")
    assert (closed.reasoning, closed.text) == ("", "As it is.</think>")


@pytest.mark.parametrize("budget", [0, 1, 7])
@pytest.mark.parametrize("opened", [False, True])
def test_a_budget_ends_reasoning(engine: Engine, budget: int, opened: bool) -> None:
    thinking = "so it is and so on " * 20
    prompt, text = ("<think>", thinking) if opened else ("", "<think>" + thinking)
    completion, *_ = told(engine.tokenizer, text, prompt, reasoning_budget=budget)
    n_closing = len(engine.encode("</think>\n\n"))
    assert budget <= completion.n_reasoning_tokens <= budget + n_closing
    assert thinking.startswith(completion.reasoning.strip())
    assert bool(completion.reasoning) == (budget > 0)
    whole = engine.decode(completion.token_ids)
    assert whole.count("</think>") == 1
    assert whole.index("</think>") < len(thinking)
    assert completion.text  # the model goes on, as an answer
    large, *_ = told(engine.tokenizer, text + "</think>x", prompt, reasoning_budget=400)
    assert (large.reasoning.strip(), large.text) == (thinking.strip(), "x")


def test_an_answer_cut_while_it_reasons_is_told(engine: Engine) -> None:
    completion, *_ = told(engine.tokenizer, "<think>" + "and so on " * 50, max_tokens=30)
    assert (completion.finish_reason, completion.text) == ("length", "")
    assert completion.reasoning.startswith("and so on")


def test_stop_strings_are_looked_for_in_the_answer_only(engine: Engine) -> None:
    text = "<think>one. two.</think>three. four."
    completion, *_ = told(engine.tokenizer, text, stop=(".",))
    assert (completion.reasoning, completion.text) == ("one. two.", "three")
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("ending", ["</think>\n\nand more", "</think>", "", "</think>{}"])
def test_a_constraint_begins_behind_reasoning(engine: Engine, ending: str) -> None:
    """Whether the model closes its reasoning, ends in it, or goes on: the answer has its form."""
    constraint = Constraint.json_schema({"const": {"a": "é"}})
    completion, *_ = told(
        engine.tokenizer, "I think é" + ending, "Why?<think>", constraint=constraint
    )
    assert completion.reasoning == "I think é"
    assert json.loads(completion.text) == {"a": "é"}
    assert completion.finish_reason == "stop"


def test_a_constraint_without_reasoning_begins_at_once(engine: Engine) -> None:
    constraint = Constraint.choice(["<think>x</think>"])
    completion, *_ = told(engine.tokenizer, "<think>y", constraint=constraint)
    assert (completion.reasoning, completion.text) == ("", "<think>x</think>")


def test_a_budget_and_a_constraint(engine: Engine) -> None:
    completion, *_ = told(
        engine.tokenizer,
        "so it is " * 50,
        "<think>",
        constraint=Constraint.regex(" [ab]{3}"),
        reasoning_budget=5,
    )
    assert completion.text in {f" {a}{b}{c}" for a in "ab" for b in "ab" for c in "ab"}
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("ahead", [False, True])
def test_the_engine_streams_both_parts(
    engine: Engine, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepseek.engine.single.may_run_ahead", lambda _: ahead)
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=3, reasoning_budget=6)
    engine.forget()
    deltas = list(engine.stream("Why?<think>", params))
    last = deltas[-1].completion
    assert last is not None
    assert "".join(d.text for d in deltas) == last.text
    assert "".join(d.reasoning for d in deltas) == last.reasoning
    assert last.reasoning
    assert last.text
    engine.forget()
    assert dict(engine.generate_many(["Why?<think>"], params))[0].token_ids == last.token_ids
