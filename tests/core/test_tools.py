"""Tool calls in an answer, well-formed and not."""

import json
import random

import pytest

from deepseek.core.llm import Completion
from deepseek.core.tools import MAX_CALLS, ToolCall, split_tool_calls


def call(name: str, **arguments: object) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def test_calls_come_in_order_without_the_text_around() -> None:
    text = f"I look.\n{call('find', q='日本', n=3)}\n{call('open', page={'n': [1]})}\nThen I say."
    rest, calls = split_tool_calls(text)
    assert calls == (
        ToolCall("find", {"q": "日本", "n": 3}),
        ToolCall("open", {"page": {"n": [1]}}),
    )
    assert rest.split() == ["I", "look.", "Then", "I", "say."]


def test_arguments_may_be_missing_or_text() -> None:
    text = '<tool_call>{"name": "a"}</tool_call><tool_call>{"name":"b","arguments":"{\\"x\\":1}"}'
    assert split_tool_calls(text + "</tool_call>") == (
        "",
        (ToolCall("a", {}), ToolCall("b", {"x": 1})),
    )


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not JSON",
        '{"name": "f", "arguments": {"x": 1}',
        '{"arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": 3, "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '["f", {}]',
        "null",
        '{"name": "f", "arguments": ' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}",
        '{"name": "' + "f" * 300 + '", "arguments": {}}',
    ],
    ids=lambda body: body[:30],
)
def test_a_malformed_call_stays_text_and_its_neighbours_are_calls(body: str) -> None:
    bad = f"<tool_call>{body}</tool_call>"
    assert split_tool_calls(f"  {bad} ") == (f"  {bad} ", ())
    rest, calls = split_tool_calls(call("a") + bad + call("b"))
    assert rest == bad
    assert [one.name for one in calls] == ["a", "b"]


def test_an_unclosed_call_is_text() -> None:
    unclosed = '<tool_call>{"name": "f"}'
    assert split_tool_calls(unclosed) == (unclosed, ())
    rest, calls = split_tool_calls(unclosed + call("g"))
    assert rest == unclosed
    assert calls == (ToolCall("g", {}),)


def test_the_number_of_calls_is_bounded() -> None:
    rest, calls = split_tool_calls(call("f") * (MAX_CALLS + 1))
    assert len(calls) == MAX_CALLS
    assert rest == call("f")


def test_noise_of_marks_and_braces_is_no_error() -> None:
    generator = random.Random(1)
    parts = ["<tool_call>", "</tool_call>", '{"name": "f"}', "{", "}", "x", '"', "\n"]
    for _ in range(300):
        text = "".join(generator.choices(parts, k=generator.randint(0, 20)))
        rest, calls = split_tool_calls(text)
        assert all(one.name == "f" for one in calls)
        assert calls or rest == text


def test_a_completion_has_the_calls_of_its_text() -> None:
    completion = Completion(
        text=call("f", x=1), token_ids=(), finish_reason="stop", n_prompt_tokens=1
    )
    assert completion.tool_calls == (ToolCall("f", {"x": 1}),)
