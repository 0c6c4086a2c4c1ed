"""Every word of a text but the first is predicted once, after at least half a window."""

import itertools
import math
from pathlib import Path

import pytest

from deepseek.core.errors import RequestError
from deepseek.core.llm import LanguageModel, Score
from deepseek.eval.task import Passage, Setup
from deepseek.eval.tasks.perplexity import TASK, segments
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.source import open_weights

TEXT = "\n\n  Once upon a time,\tthere was a king 。很久以前" + "长" * 150 + " \n and\n\nhe died.\n"


class TokenModel(LanguageModel):
    """A tokenizer that passes for a model."""

    name = "tokens"
    context_window = 8_192

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_gguf_metadata(open_weights(path).metadata)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text))


def passages(folder: Path, **setup: object) -> list[Passage]:
    return list(TASK.items(Setup(shots=0, folder=folder, **setup)))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [2, 4, 6, 10, 100])
def test_each_word_is_predicted_once(tmp_path: Path, length: int) -> None:
    path = tmp_path / "story.txt"
    path.write_text(TEXT, encoding="utf-8")
    found = passages(path, lengths=(length,))
    first = found[0].prompt
    assert isinstance(first, str)
    assert first.strip() == "Once"
    assert first + "".join(item.text for item in found) == TEXT
    for before, item in itertools.pairwise(found):
        assert isinstance(item.prompt, str)
        assert item.prompt.endswith(before.text)
        assert len(segments(item.prompt, 1, None)) == length // 2


def test_without_bounds_it_is_one_passage(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text("one two three", encoding="utf-8")
    assert passages(path) == [
        Passage(id="story.txt/0", text=" two three", prompt="one", group="story.txt")
    ]


def test_a_folder_gives_its_text_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.md").write_text("x y", encoding="utf-8")
    (tmp_path / "a.txt").write_text("u v", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert [item.id for item in passages(tmp_path)] == ["a.txt/0", "b/c.md/0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "no UTF-8"), (b"one", "less than two words"), (b" ", "less than two")],
)
def test_unfit_files_are_errors(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        passages(path)


def test_absent_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read"):
        passages(tmp_path / "none.txt")
    with pytest.raises(RequestError, match="no text in"):
        passages(tmp_path)
    with pytest.raises(RequestError, match="perplexity needs its data"):
        list(TASK.items(Setup(shots=0)))


def test_grades_are_averages_with_their_weights() -> None:
    grades = TASK.grade(Passage(id="0", text="ab é"), [Score(-10 * math.log(2), 4, False)])
    assert grades == {
        "bits_per_byte": pytest.approx(2.0),
        "bits_per_byte/weight": 5.0,
        "nats_per_token": pytest.approx(2.5 * math.log(2)),
        "nats_per_token/weight": 4.0,
    }


@pytest.mark.weights
def test_windows_hold_the_models_own_tokens(smollm2_path: Path, tmp_path: Path) -> None:
    model = TokenModel(smollm2_path)
    text = (Path(__file__).parents[3] / "LICENSE").read_text(encoding="utf-8")[:6_000]
    path = tmp_path / "licence.txt"
    path.write_text(text, encoding="utf-8")
    found = passages(path, model=model, lengths=(256,))
    ids = []
    for item in found:
        assert isinstance(item.prompt, str)
        assert model.count_tokens(item.prompt) + model.count_tokens(item.text) <= 256
        ids += model.tokenizer.encode(item.text)
    # The cuts change no token: the pieces are tokenised as the whole is.
    assert isinstance(found[0].prompt, str)
    assert model.tokenizer.encode(found[0].prompt) + ids == model.tokenizer.encode(text)
    assert all(model.count_tokens(str(item.prompt)) > 120 for item in found[1:])
