"""Whatever users write, control tokens come from the template alone."""

import re
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_vocabulary import CONTROL, tiny_metadata

from deepseek.core.llm import Message
from deepseek.tokenizer.template import CHATML, TAGS, ChatTemplate
from deepseek.tokenizer.tokenizer import Tokenizer

TINY = Tokenizer.from_gguf_metadata(tiny_metadata())
NAMES = [*CONTROL, "<|eot_id|>", "[INST]", "</s>"]
Role = Literal["system", "user", "assistant"]

# Pieces of control tokens, the tags that templates cut at, spaces that they strip, marks.
PIECES = sorted({name[i:j] for name in NAMES for i in range(len(name)) for j in (i + 1, len(name))})
FRAGMENTS = [*NAMES, *TAGS, *PIECES, " ", "\n", "\t", "\ue000", "\ue001", "x", "世", "{{", "}}"]
ADVERSARIAL = st.one_of(
    st.sampled_from(FRAGMENTS),
    st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join),
    st.builds(
        lambda name, cut, tag: name[:cut] + tag + name[cut:],
        st.sampled_from(NAMES),
        st.integers(0, 12),
        st.sampled_from([*TAGS, " ", "\n", *NAMES]),
    ),
    st.text(max_size=20),
)
PROPERTY = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@PROPERTY
@given(ADVERSARIAL)
def test_text_gives_no_control_token_and_comes_back(text: str) -> None:
    ids = TINY.encode(text)
    assert TINY.control_ids.isdisjoint(ids)
    assert TINY.decode(ids) == text.encode("utf-8", "replace").decode()


@pytest.mark.weights
@PROPERTY
@given(text=ADVERSARIAL)
def test_text_gives_no_control_token_of_a_real_checkpoint(smollm2: Tokenizer, text: str) -> None:
    assert smollm2.control_ids.isdisjoint(smollm2.encode(text))


@PROPERTY
@given(
    st.lists(st.tuples(st.sampled_from(("system", "user", "assistant")), ADVERSARIAL), min_size=1)
)
def test_a_conversation_has_the_control_tokens_of_its_template_only(
    turns: list[tuple[Role, str]],
) -> None:
    messages = [Message(role, text) for role, text in turns]
    ids = TINY.encode_chat(messages)
    start, end, _ = (TINY.encode(name, control=True)[0] for name in CONTROL)
    found = [i for i in ids if i in TINY.control_ids]
    assert found == [start, end] * len(messages) + [start]
    text = "".join(f"{m.role}\n{m.content}\n" for m in messages) + "assistant\n"
    assert TINY.decode(ids) == text.encode("utf-8", "replace").decode()


# What a template may do to a message, and text of its own that a message could complete.
TRICKS = {
    "plain": "{{ m.content }}",
    "stripped": "{{ m.content | trim }}",
    "stripped by method": "{{ m.content.strip() }}",
    "cut behind a tag": "{{ m.content.split('</think>')[-1] }}",
    "cut and stripped": "{{ m.content.split('</think>')[-1].lstrip('\\n') }}",
    "cut before a tag": "{{ m.content.split('<think>')[0].rstrip() }}",
    "tags removed": "{{ m.content.replace('</think>', '').replace('<think>', '') }}",
    "spaces removed": "{{ m.content.replace(' ', '').replace('\\n', '') }}",
    "joined lines": "{{ m.content.splitlines() | join }}",
    "joined characters": "{{ m.content | list | join }}",
    "as JSON": "{{ m.content | tojson }}",
    "in capitals and back": "{{ m.content | upper | lower }}",
    "behind a bracket": "<{{ m.content }}",
    "behind a beginning": "<|im_{{ m.content }}",
    "behind all but the last": "<|im_end|{{ m.content }}",
    "behind all but the last, stripped": "<|im_end|{{ m.content | trim }}",
    "before an end": "{{ m.content }}|im_end|>",
    "before the last": "{{ m.content }}>",
    "inside a token": "<|im_{{ m.content }}|>",
    "twice": "{{ m.content }}{{ m.content }}",
    "cut after a character": "{{ m.content[:1] }}{{ m.content[1:] }}",
}


@pytest.fixture(scope="module")
def templates() -> dict[str, ChatTemplate]:
    """One process a template, kept for all examples."""
    return {
        name: ChatTemplate(
            f"{{% for m in messages %}}{trick}{{% endfor %}}", control=NAMES, bos="", eos=""
        )
        for name, trick in TRICKS.items()
    }


@pytest.mark.parametrize("name", TRICKS)
@settings(PROPERTY, max_examples=60)
@given(texts=st.lists(ADVERSARIAL, min_size=1, max_size=3))
def test_a_message_cannot_make_a_control_token_with_the_templates_help(
    templates: dict[str, ChatTemplate], name: str, texts: list[str]
) -> None:
    messages = [Message("user", text) for text in texts]
    assert [s.text for s in templates[name].render(messages, True) if s.is_control] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trick", ["behind a bracket", "behind a beginning", "inside a token"])
def test_every_way_to_complete_a_token_fails(
    templates: dict[str, ChatTemplate], trick: str, name: str
) -> None:
    for cut in range(1, len(name)):
        for text in (name[cut:], f" {name[cut:]}", name[cut : cut + 1], name[:cut]):
            segments = templates[trick].render([Message("user", text)], True)
            assert not any(s.is_control for s in segments), (cut, text)


def test_marks_are_gone_and_no_character_of_a_message_is_lost() -> None:
    private = "".join(map(chr, range(0xE000, 0xE100)))
    text = f"|im_end|> {private} <|im_start|><<<"
    segments = ChatTemplate(CHATML, control=NAMES, bos="", eos="").render(
        [Message("user", text)], False
    )
    assert [s.text for s in segments if not s.is_control] == [f"user\n{text}", "\n"]


def test_a_template_may_use_private_characters_itself() -> None:
    source = "\ue000{{ messages[0].content }}\ue001"
    (segment,) = ChatTemplate(source, control=NAMES, bos="", eos="").render(
        [Message("user", "<x>")], False
    )
    assert segment.text == "\ue000<x>\ue001"


def test_a_message_without_danger_reaches_the_template_as_it_is() -> None:
    source = "{% if messages[0].content.startswith('Sum') %}yes{% endif %}{{ messages[0].content }}"
    (segment,) = ChatTemplate(source, control=NAMES, bos="", eos="").render(
        [Message("user", "Sum up")], False
    )
    assert re.fullmatch("yesSum up", segment.text)
