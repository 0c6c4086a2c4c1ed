"""Conversations as transformers renders them, and templates that do not behave."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from peer_tokenizers import Peer
from templates import PUBLISHED

from deepseek.core.errors import TokenizerError
from deepseek.core.llm import Message
from deepseek.tokenizer import template_process
from deepseek.tokenizer.template import CHATML, ChatTemplate
from deepseek.tokenizer.tokenizer import Tokenizer

CONTROL = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "[INST]", "</s>"]
HELLO = [Message("user", "hello")]

CONVERSATIONS: dict[str, list[Message]] = {
    "one question": [Message("user", "What is 2 + 2?")],
    "with a system": [Message("system", "Be brief."), Message("user", "  padded \n")],
    "three turns": [
        Message("user", "First: é世🌍"),
        Message("assistant", "<think>\nhm\n</think>\n\nSecond"),
        Message("user", "Third\n\n\twith {{ braces }} {% raw %} & \"quotes\" <b>html</b> 'it's'"),
    ],
    "ends with an answer": [Message("user", "a < b"), Message("assistant", "[c]\n")],
    "code": [Message("user", "for (i = 0; i < n; i++) { a[i] <<= 2; }\n#include <stdio.h>")],
    "empty": [Message("user", ""), Message("assistant", " "), Message("user", "\n")],
}


def rendered(template: ChatTemplate, messages: list[Message], prompt: bool = True) -> str:
    return "".join(segment.text for segment in template.render(messages, prompt))


def as_dicts(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


@pytest.mark.weights
@pytest.mark.parametrize("name", PUBLISHED)
def test_text_equals_that_of_transformers(name: str, smollm2_peer: Peer) -> None:
    peer = smollm2_peer.control
    template = ChatTemplate(PUBLISHED[name], control=CONTROL, bos="", eos=str(peer.eos_token))
    n_equal = 0
    for messages in CONVERSATIONS.values():
        for prompt in (True, False):
            theirs = _theirs(peer, as_dicts(messages), PUBLISHED[name], prompt)
            if theirs is None:
                with pytest.raises(TokenizerError, match="the chat template failed"):
                    template.render(messages, prompt)
            else:
                assert rendered(template, messages, prompt) == theirs
                n_equal += 1
    assert n_equal >= 8


def _theirs(peer: Any, messages: list[dict[str, str]], source: str, prompt: bool) -> str | None:
    import jinja2

    try:
        return str(
            peer.apply_chat_template(
                messages,
                chat_template=source,
                tokenize=False,
                add_generation_prompt=prompt,
                bos_token="",
            )
        )
    except jinja2.TemplateError:
        return None


def assert_ids_equal(ours: Tokenizer, peer: Peer, source: str) -> None:
    for messages in CONVERSATIONS.values():
        for prompt in (True, False):
            theirs = peer.control.apply_chat_template(
                as_dicts(messages),
                chat_template=source,
                add_generation_prompt=prompt,
                return_dict=False,
            )
            assert ours.encode_chat(messages, add_generation_prompt=prompt) == theirs


@pytest.mark.weights
def test_smollm2_ids_equal_those_of_transformers(
    smollm2: Tokenizer, smollm2_peer: Peer, smollm2_metadata: dict[str, Any]
) -> None:
    assert_ids_equal(smollm2, smollm2_peer, smollm2_metadata["tokenizer.chat_template"])


@pytest.mark.large
def test_qwen_ids_equal_those_of_transformers(
    qwen: Tokenizer, qwen_peer: Peer, qwen_metadata: dict[str, Any]
) -> None:
    assert_ids_equal(qwen, qwen_peer, qwen_metadata["tokenizer.chat_template"])


def made(source: str) -> ChatTemplate:
    return ChatTemplate(source, control=CONTROL, bos="<s>", eos="</s>")


def test_segments_tell_control_tokens_from_text() -> None:
    segments = made(CHATML).render(HELLO, False)
    assert [(s.text, s.is_control) for s in segments] == [
        ("<|im_start|>", True),
        ("user\nhello", False),
        ("<|im_end|>", True),
        ("\n", False),
    ]


def test_a_conversation_without_a_message_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="has no message"):
        made(CHATML).render([], True)


def test_a_template_too_large_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="characters"):
        made("x" * (2 << 20))


def test_long_conversations_render() -> None:
    text = "A word < another, and so on. " * 40_000  # 1.2 million characters
    assert rendered(made(CHATML), [Message("user", text)], False).count(text) == 1


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROW = "{% set ns = namespace(x='aaaaaaaa') %}"
BOMBS = {
    "endless loop": ENDLESS,
    "endless arithmetic": "{{ messages|length ** 0 * (7 ** (messages|length * 10 ** 9)) }}",
    "endless compiling": "{{ 7 ** (10 ** 9) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "memory": GROW + "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "memory when compiling": "{{ 'a' * (10 ** 11) }}",
    "memory by padding": "{{ 'a'.ljust(messages|length * 10 ** 11) }}",
    "memory by format": "{{ '%99999999999d' % 1 }}",
    "a list too long": "{{ range(10 ** 9) | list }}",
    "endless output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "one huge output": "{{ 'abcdefgh' * (messages|length * 10 ** 7) }}",
    "nested parentheses": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "nested loops": "{% for a in [1] %}" * 500 + "{% endfor %}" * 500,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_in_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "RENDER_SECONDS", 1.0)
    with pytest.raises(TokenizerError, match="the chat template") as caught:
        made(BOMBS[name]).render(HELLO, True)
    assert caught.value.hint
    assert len(str(caught.value)) < 1_000


ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by item": "{{ ''['__class__'] }}{{ ''['__class__']['__mro__'] }}",
    "class by filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "class by pieces": "{{ ''|attr('__cla' ~ 'ss__')|attr('__mro__') }}",
    "class by map": "{{ ['']|map(attribute='__class__')|map(attribute='__mro__')|list }}",
    "format": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "format by attr": "{{ ('{0.__class__.__mro__}'|attr('format'))(1) }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "code of a function": "{{ strftime_now.__code__.co_consts }}",
    "self": "{{ self.__init__.__globals__.__builtins__ }}{{ self.__init__.__globals__['x'] }}",
    "cycler": "{{ cycler.__init__.__globals__.os.environ }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "namespace": "{{ namespace.__init__.__globals__['x'] }}",
    "namespace field": "{{ namespace(__class__=1) }}",
    "namespace by setting": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
    "import": "{% import 'os' as os %}{{ os }}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "append": "{{ messages.append(messages[0]) }}",
    "update": "{{ messages[0].update({'role': 'system'}) }}",
    "clear": "{{ messages.clear() }}",
    "pop": "{{ messages.pop() }}",
    "frame": "{{ messages.__iter__().__class__.__base__.gi_frame }}",
    "syntax": "{% for %}",
    "unknown tag": "{% python %}1{% endpython %}",
    "unknown filter": "{{ 1|shell }}",
    "own error": "{{ raise_exception('no') }}",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_ends_in_an_error(name: str) -> None:
    with pytest.raises(TokenizerError, match=r"the chat template (failed|is invalid)"):
        made(ESCAPES[name]).render(HELLO, True)


def test_a_template_works_again_after_it_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    template = made("{% if messages[0].content == 'hang' %}" + ENDLESS + "{% endif %}fine")
    assert rendered(template, HELLO) == "fine"
    with monkeypatch.context() as patch:
        patch.setattr(template_process, "RENDER_SECONDS", 1.0)
        with pytest.raises(TokenizerError, match="exceeded its bounds"):
            template.render([Message("user", "hang")], True)
    assert rendered(template, HELLO) == "fine"
    template._process._child.process.kill()  # type: ignore[union-attr]  # by someone else
    template._process._child.process.wait()  # type: ignore[union-attr]
    assert rendered(template, HELLO) == "fine"


def test_the_process_ends_with_its_template() -> None:
    template = made(CHATML)
    template.render(HELLO, True)
    child = template._process._child
    assert child is not None
    process = child.process
    assert process.poll() is None
    del template, child
    assert process.poll() is not None


def test_a_process_whose_parent_is_gone_ends_by_itself() -> None:
    orphan = template_process.TemplateProcess(ENDLESS, "", "")
    orphan._child = orphan._started()
    child = orphan._child.process
    assert child.stdin is not None
    request = {"messages": [], "add_generation_prompt": True, "max_characters": 9, "seconds": 0.5}
    child.stdin.write(json.dumps(request).encode() + b"\n")
    child.stdin.flush()  # and nobody ever asks for the answer
    assert child.wait(timeout=60) != 0
    orphan.close()


def test_files_in_the_users_folder_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json.py", "jinja2.py", "signal.py", "deepseek.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    assert rendered(made("fine"), HELLO) == "fine"


def test_a_date_in_a_template_is_todays() -> None:
    year = rendered(made("{{ strftime_now('%Y') }}"), HELLO)
    assert int(year) in (time.localtime().tm_year, time.localtime().tm_year - 1)
