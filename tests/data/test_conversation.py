"""Only answers are learned, whatever the template writes around them."""

import json
import shutil
from pathlib import Path

import pytest

from deepseek.core.llm import Message
from deepseek.data.conversation import encode_conversation, encode_text
from deepseek.data.records import BadRecord
from deepseek.data.token_file import IGNORED, write_token_file
from deepseek.tokenizer.tokenizer import Tokenizer

TURNS = [
    Message("system", "Be brief."),
    Message("user", "May I copy the work?"),
    Message("assistant", "You may."),
    Message("user", "And sell it?"),
    Message("assistant", "You may <|im_end|> sell it."),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_folder)


def learned(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Runs of learned tokens as texts."""
    runs: list[list[int]] = []
    before = False
    for i in ids:
        if i >= 0:
            runs = runs if before else [*runs, []]
            runs[-1].append(i)
        before = i >= 0
    return [tokenizer.decode(run, skip_control=False) for run in runs]


def test_answers_and_their_ends_are_learned_and_nothing_else(tokenizer: Tokenizer) -> None:
    example = encode_conversation(tokenizer, TURNS, 1_000)
    assert learned(tokenizer, example.ids) == [
        "You may.<|im_end|>",
        "You may <|im_end|> sell it.<|im_end|>",
    ]
    plain = [i if i >= 0 else -1 - i for i in example.ids]
    whole = tokenizer.encode_chat(TURNS, add_generation_prompt=False)
    assert plain == whole[: len(plain)]
    assert not example.is_truncated
    # Control tokens that a message spells are text: the real one is there once an answer.
    end = tokenizer.encode("<|im_end|>", control=True)
    assert example.ids.count(end[0]) == 2
    assert example.n_bytes == len("You may.You may <|im_end|> sell it.")


def test_what_is_too_long_is_cut_and_told(tokenizer: Tokenizer) -> None:
    whole = encode_conversation(tokenizer, TURNS, 1_000).ids
    short = encode_conversation(tokenizer, TURNS, len(whole) - 5)
    assert short.is_truncated
    assert short.ids == whole[:-5]
    with pytest.raises(BadRecord, match="in front of the answer takes 10 tokens"):
        encode_conversation(tokenizer, TURNS, 10)


def test_a_template_that_changes_earlier_answers_leaves_the_last_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """As templates of reasoning models do: only the last answer keeps its reasoning."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('#')[-1] }}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    shutil.copyfile(tiny_folder / "tokenizer.json", tmp_path / "tokenizer.json")
    settings = {"eos_token": "<|im_end|>", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    turns = [
        Message("user", "a"),
        Message("assistant", "b#c"),
        Message("user", "d"),
        Message("assistant", "e#f"),
    ]
    found = learned(tokenizer, encode_conversation(tokenizer, turns, 1_000).ids)
    assert found == ["e#f<|im_end|>"]


def test_texts_are_learned_whole_in_pieces(tokenizer: Tokenizer) -> None:
    text = "You may reproduce and distribute copies of the work. " * 8
    examples = encode_text(tokenizer, text, 20)
    assert len(examples) > 1
    assert all(len(example.ids) <= 20 and min(example.ids) >= 0 for example in examples)
    joined = [i for example in examples for i in example.ids]
    assert tokenizer.decode(joined) == text


def test_labels_of_a_token_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    example = encode_conversation(tokenizer, TURNS[:3], 1_000)
    tokens = write_token_file(tmp_path / "x.tokens", [example.document()] * 2)
    ids, labels = tokens.piece(1, 0, 1_000)
    assert ids.min() >= 0
    for place, label in enumerate(labels):
        following = example.ids[place + 1] if place + 1 < len(ids) else -1
        assert label == (following if following >= 0 else IGNORED)
    first, _ = tokens.piece(1, 0, 4)
    rest, rest_labels = tokens.piece(1, 4, 1_000)
    assert first.tolist() + rest.tolist() == ids.tolist()
    assert rest_labels.tolist() == labels[4:].tolist()
