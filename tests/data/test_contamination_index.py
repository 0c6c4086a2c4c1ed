"""Copies are found where they stand, other text is not, and a file is not trusted."""

import io
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deepseek.core.errors import ConfigError
from deepseek.data.contamination import MAX_TEXTS, ContaminationIndex, Match
from deepseek.data.grams import gram_hashes, token_hashes

STDLIB = Path(sysconfig.get_paths()["stdlib"])
QUESTION = (
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes "
    "muffins for her friends every day with four."
)
CHINESE = "问题：小明有十六个苹果，他每天早上吃三个，并且送给朋友四个，请问还剩下多少个苹果？"
SHORT = "who wrote the opera about the flying dutchman"  # eight tokens
PROGRAM = '''
def truncate_number(number: float) -> float:
    """ Given a positive floating point number, it can be decomposed into
    and integer part (largest integer smaller than given number) and decimals. """
    return number % 1.0
'''
ITEMS = [("gsm8k", QUESTION), ("chinese", CHINESE), ("nq", SHORT), ("humaneval", PROGRAM)]
FILLER = "Nothing of this paragraph was ever asked in any examination that we know of. " * 5


@pytest.fixture(scope="module")
def index():
    return ContaminationIndex.build(ITEMS, licences={"gsm8k": "MIT"}, sources={"a.whl": "00"})


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text,
        str.upper,
        lambda text: text.replace(" ", "\n\t "),
        lambda text: text.replace(".", " !!").replace(",", ";").replace("'", "’"),
        lambda text: text.replace(" ", "  *  "),
    ],
)
@pytest.mark.parametrize("number", range(4))
def test_copies_and_light_edits_are_found_where_they_stand(index, number, edit):
    task, item = ITEMS[number]
    copy = edit(item.strip())
    document = f"{FILLER}\n{copy}\n{FILLER}"
    assert [match.tasks for match in index.matches(document)] == [(task,)]
    match = index.matches(document)[0]
    assert match.start == len(FILLER) + 1
    # Punctuation at the end belongs to no token.
    end = len(FILLER) + 1 + len(copy)
    assert 0 <= end - match.end <= 6
    assert not any(character.isalnum() for character in document[match.end : end])


def test_places_are_right_behind_text_that_changes_its_length(index):
    document = f"Ein ﬁnales … ½ cafe\u0301 ﷺ {QUESTION} Straße"
    match = index.matches(document)[0]
    assert document[match.start : match.end] == QUESTION[:-1]


def test_a_part_of_an_item_is_found_from_13_tokens_on(index):
    words = QUESTION.split()
    assert index.matches(" ".join(words[4:16])) == []
    part = " ".join(words[4:17])
    assert index.matches(part) == [Match(0, len(part), 13, ("gsm8k",))]


def test_a_short_item_is_found_only_whole(index):
    assert index.matches(f"ask {SHORT} today")[0].n_tokens == 8
    assert index.matches(SHORT.replace("flying", "sailing")) == []
    assert index.share(SHORT) == 1.0


def test_the_share_counts_grams(index):
    words = QUESTION.split()
    assert index.share(QUESTION) == 1.0
    # 13 + 10 tokens: 11 grams, one of them copied.
    other = " ".join(f"strange{i}" for i in range(10))
    assert index.share(" ".join(words[:13]) + " " + other) == pytest.approx(1 / 11)
    assert index.share(FILLER) == 0.0
    assert index.share("seven tokens are too few to tell") == 0.0
    assert index.share("") == 0.0


def test_a_paraphrase_is_not_found(index):
    # The limit of the method, stated in the guide: what shares no run of words is not seen.
    paraphrase = (
        "Every day Janet gets sixteen eggs from her ducks; three of them become her breakfast "
        "and four go into muffins that she bakes for friends."
    )
    assert index.matches(paraphrase) == []


def test_two_items_side_by_side_are_two_matches(index):
    document = f"{QUESTION} {SHORT} {CHINESE}"
    assert [match.tasks for match in index.matches(document)] == [("gsm8k",), ("nq",), ("chinese",)]


def test_counts_are_exact_on_a_set_made_by_hand():
    words = [f"w{chr(97 + i)}" for i in range(20)]
    longer = " ".join(words)  # 8 grams of 13
    cut = " ".join(words[:15])  # 3 grams, all of them in the longer one
    ten = " ".join(words[:10])  # one gram of 10
    index = ContaminationIndex.build(
        [("a", longer), ("a", longer.upper()), ("b", cut), ("b", ten), ("b", "too short")]
    )
    assert index.n_grams == 8 + 1
    tasks = {task.name: (task.n_texts, task.n_skipped) for task in index.info.tasks}
    assert tasks == {"a": (1, 1), "b": (2, 1)}
    hits = index._hits(token_hashes(longer))
    owners = {(first, n): index._sets[owner] for first, n, owner in hits}
    both = {(i, 13): (0, 1) for i in range(3)}
    assert owners == both | {(i, 13): (0,) for i in range(3, 8)} | {(0, 10): (1,)}
    assert index.matches(longer) == [Match(0, len(longer), 20, ("a", "b"))]


def test_set_phrases_of_a_task_are_no_content():
    phrase = "choose the one option that best completes the sentence below and explain your answer"
    few = [("few", f"{phrase} number {i}") for i in range(MAX_TEXTS)]
    many = [("many", f"{phrase} number {i}") for i in range(MAX_TEXTS + 1)]
    assert ContaminationIndex.build(few).matches(phrase)
    index = ContaminationIndex.build(many)
    assert index.matches(phrase) == []
    assert index.info.n_set_phrases == 3  # two of the phrase, one with "number"
    assert index.matches(f"{phrase} number 4")  # the item itself
    repeated = ContaminationIndex.build([("many", phrase)] * 100)
    assert repeated.matches(phrase)


def test_rows_of_numbers_and_letters_are_no_content():
    numbers = ", ".join(map(str, range(40)))
    table = "True, False, " * 20
    letters = " ".join("abcdefghijklmnopqrstuvwxyz")
    index = ContaminationIndex.build([("code", f"assert sort([{numbers}]) == {table} {letters}")])
    assert index.matches(f"x = [{numbers}]\ny = [{table}]\n{letters}") == []
    assert index.n_grams == 0


def test_clean_text_has_no_matches(index):
    files = sorted(STDLIB.glob("*.py"))[:80]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    assert sum(map(len, texts)) > 1_000_000
    assert [index.matches(text) for text in texts] == [[]] * len(texts)


def test_a_large_random_index_meets_a_large_document_nowhere():
    generator = np.random.default_rng(0)
    known = np.unique(generator.integers(0, 2**64, 1_000_000, dtype=np.uint64))
    from deepseek.data.index_file import IndexArrays, IndexedTask, IndexInfo

    task = IndexedTask(name="random", licence="", n_texts=1, n_skipped=0)
    arrays = IndexArrays({13: known}, {13: np.zeros(len(known), np.uint32)}, ((0,),))
    index = ContaminationIndex(IndexInfo(tasks=(task,)), arrays)
    text = (STDLIB / "typing.py").read_text(encoding="utf-8")
    assert index.share(text) == 0.0
    # The same index does find a gram that is there.
    planted = dict(gram_hashes(token_hashes(QUESTION), (13,)))[13]
    arrays.grams[13][:] = np.sort(np.r_[known[: -len(planted)], planted])
    assert index.share(QUESTION) == 1.0


def test_an_index_is_the_same_after_a_round_trip(index, tmp_path):
    file = tmp_path / "folder" / "index.npz"
    assert index.save(file) == file.stat().st_size
    again = ContaminationIndex.load(file)
    assert again.info == index.info
    assert again.info.sources == {"a.whl": "00"}
    assert str(again) == str(index) == f"{index.n_grams} grams of 4 texts from 4 tasks"
    document = f"{FILLER} {QUESTION} {SHORT}"
    assert again.matches(document) == index.matches(document)
    assert [file.name for file in file.parent.iterdir()] == ["index.npz"]
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["grams_13"].dtype == np.uint64


def test_every_process_writes_the_same_bytes(index, tmp_path):
    code = (
        "import sys, json; from pathlib import Path;"
        "from deepseek.data.contamination import ContaminationIndex as I;"
        "items = [tuple(i) for i in json.loads(sys.argv[2])];"
        "I.build(items, licences={'gsm8k': 'MIT'}, sources={'a.whl': '00'}).save(Path(sys.argv[1]))"
    )
    index.save(tmp_path / "here.npz")
    for seed in ("1", "77"):
        target = tmp_path / f"{seed}.npz"
        subprocess.run(
            [sys.executable, "-c", code, target, json.dumps(ITEMS)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
        )
        assert target.read_bytes() == (tmp_path / "here.npz").read_bytes()


def test_an_empty_index_matches_nothing(tmp_path):
    empty = ContaminationIndex.build([])
    empty.save(tmp_path / "empty.npz")
    again = ContaminationIndex.load(tmp_path / "empty.npz")
    assert again.n_grams == 0
    assert again.matches(QUESTION) == []
    assert again.share(QUESTION) == 0.0


def rewritten(file, change):
    """The saved index with its members changed."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    file.write_bytes(packed.getvalue())


def npy(array):
    packed = io.BytesIO()
    np.lib.format.write_array(packed, array, allow_pickle=True)
    return packed.getvalue()


def described(**changes):
    def change(members):
        table = json.loads(members["metadata.json"]) | changes
        members["metadata.json"] = json.dumps(table).encode()

    return change


def put(name, data):
    return lambda members: members.__setitem__(name, data)


HUGE = npy(np.zeros(4, np.uint64)).replace(b"(4,)", b"(9999999999999,)", 1)
HOSTILE = {
    "another version": described(version=99),
    "another gram": described(gram=5),
    "task without name": described(tasks=[{"licence": "x"}]),
    "owner out of range": described(owner_sets=[[99]]),
    "negative owner": described(owner_sets=[[-1]]),
    "owner is text": described(owner_sets=["gsm8k"]),
    "too few owner sets": described(owner_sets=[]),
    "unknown setting": described(evil=1),
    "no metadata": lambda members: members.pop("metadata.json"),
    "no owners": lambda members: members.pop("owners_13.npy"),
    "metadata is no JSON": put("metadata.json", b"\xff\xfe"),
    "metadata is a list": put("metadata.json", b"[]"),
    "nested metadata": put("metadata.json", b"[" * 100_000),
    "foreign member": put("../../evil.py", b"x"),
    "pickle": put("grams_13.npy", npy(np.array([{}], dtype=object))),
    "wrong dtype": put("grams_13.npy", npy(np.zeros(4, np.int16))),
    "matrix": put("grams_13.npy", npy(np.zeros((2, 2), np.uint64))),
    "huge shape": put("grams_13.npy", HUGE),
    "unsorted": put("grams_13.npy", npy(np.array([3, 2, 1], np.uint64))),
    "no array": put("grams_13.npy", b"\x93NUMPY\x01\x00"),
    "header is code": put(
        "grams_13.npy", b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('true') \n"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(index, tmp_path, name):
    file = tmp_path / "index.npz"
    index.save(file)
    rewritten(file, HOSTILE[name])
    with pytest.raises(ConfigError, match="is no valid index"):
        ContaminationIndex.load(file)


def test_what_is_no_archive_is_refused(index, tmp_path):
    file = tmp_path / "index.npz"
    with pytest.raises(ConfigError, match="cannot read"):
        ContaminationIndex.load(file)
    index.save(file)
    whole = file.read_bytes()
    for damaged in (
        b"",
        b"PK",
        whole[: len(whole) // 2],
        whole.replace(b"\x93NUMPY", b"\x93NUMPX"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="is no valid index"):
            ContaminationIndex.load(file)


def test_nothing_in_a_file_may_unfold_to_more_than_the_file(index, tmp_path):
    file = tmp_path / "index.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", b" " * 10_000_000)
    with pytest.raises(ConfigError, match="compressed"):
        ContaminationIndex.load(file)


def test_a_place_that_cannot_be_written_is_an_error(index, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        index.save(tmp_path / "file" / "index.npz")
