"""The page of a report: whole, bounded, self-contained, and deaf to what is in the report."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from deepseek.core.llm import Score
from deepseek.eval import page
from deepseek.eval.page import render_page, shown_value
from deepseek.eval.record import Record, Report, TaskRun
from deepseek.eval.statistics import summarise, summarise_groups
from deepseek.eval.task import Choice, grade_choice

HOSTILE = (
    "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> & \u2028 {{ 7*7 }} \ud800"
)
EXAMPLES = "".join(f"Question: what is {i} and {i}?\nAnswer: {2 * i}\n\n" for i in range(12))


def record(i, acc=1.0, **fields):
    values = {
        "id": f"item/{i}",
        "group": "",
        "prompt": f"{EXAMPLES}Question: number {i}?\nAnswer:",
        "prompt_sha256": f"{i:064}",
        "expected": {"choices": [" A", " B"], "gold": 1},
        "scores": ((-2.0, 1, False), (-1.0, 1, True)),
        "grades": {"acc": acc, "gold_bpb": 2.0, "gold_bpb/weight": 2.0},
        "seconds": 0.25,
    }
    return Record(**values | fields)


def run(*records, **fields):
    values = {
        "task": "made_up",
        "protocol": "as nobody else does it",
        "metric": "acc",
        "shots": 12,
        "chat": False,
        "limit": None,
        "seed": 0,
        "n_available": 500,
        "n_errors": sum(bool(one.error) for one in records),
        "seconds": 61.0,
        "summary": summarise(records),
        "groups": summarise_groups(records, "acc"),
        "records": records,
    }
    return TaskRun(**values | fields)


def report(*runs, **fields):
    values = {
        "model": "SmolLM2-135M",
        "weights": "Q4_1",
        "compute": "bfloat16",
        "date": "2026-11-25",
        "package": "0.1.0",
        "runs": runs,
    }
    return Report(**values | fields)


class Reader(HTMLParser):
    """What a browser would make of the page: tags with attributes, and the scripts' texts."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.scripts = []
        self.words = []
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.words).append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])


def items_of(text):
    names = ["task", "id", "group", "shared", "prompt", "expected", "output", "scores", "chosen"]
    names += ["grades", "seconds", "error", "sha256"]
    data = Reader(text).data
    return data["tasks"], [dict(zip(names, row, strict=True)) for row in data["items"]]


def test_the_script_reads_the_fields_in_the_order_in_which_they_are_written():
    script = Reader(render_page(report(run(record(0))))).scripts[1]
    fields = re.findall(r'"(\w+)"', script[script.index("FIELDS = [") : script.index("];")])
    _, items = items_of(render_page(report(run(record(0)))))
    assert fields == list(items[0])


def test_scores_and_items_are_all_there():
    text = render_page(report(run(record(0), record(1, acc=0.0), record(2, error="too long"))))
    words = " ".join(" ".join(Reader(text).words).split())
    assert "SmolLM2-135M" in words
    assert "Q4_1" in words
    assert "33.3 % acc" in words
    assert "3 of 500 items · 12 examples · 1 error · 61 s" in words
    assert "guessing 50.0 %" in words
    tasks, items = items_of(text)
    assert tasks[0]["protocol"] == "as nobody else does it"
    assert [item["id"] for item in items] == ["item/0", "item/1", "item/2"]
    assert items[0]["scores"] == [[-2.0, 1, False, -2.0], [-1.0, 1, True, -1.0]]
    assert items[2]["error"] == "too long"


def test_nothing_from_the_report_becomes_markup():
    hostile = record(
        HOSTILE,
        prompt=HOSTILE,
        group=HOSTILE,
        output=HOSTILE,
        error="",
        expected={"choices": [HOSTILE, HOSTILE], "gold": 0, HOSTILE: [HOSTILE]},
        prompt_sha256=HOSTILE,
    )
    made = run(hostile, record(1), task=HOSTILE, protocol=HOSTILE)
    text = render_page(report(made, model=HOSTILE, weights=HOSTILE, compute=HOSTILE, date=HOSTILE))
    plain = render_page(report(run(record(0), record(1, group="b"))))
    assert [tag for tag, _ in Reader(text).tags] == [tag for tag, _ in Reader(plain).tags]
    assert len(Reader(text).scripts) == 2
    assert not [
        name for _, attributes in Reader(text).tags for name in attributes if name[:2] == "on"
    ]
    assert "{{ 7*7 }}" in text
    tasks, items = items_of(text)
    expected = HOSTILE.replace("\ud800", "?")
    assert items[0]["prompt"] == items[0]["output"] == items[0]["group"] == expected
    assert tasks[0]["name"] == expected
    text.encode()  # it can be written


def test_the_page_is_alone_and_runs_only_its_own_script():
    text = render_page(report(run(record(0))))
    reader = Reader(text)
    for tag, attributes in reader.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "href", "action", "srcset"} & set(attributes)
    policy = next(a["content"] for t, a in reader.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    digest = base64.b64encode(hashlib.sha256(reader.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
    ):
        assert way not in reader.scripts[1]
    assert "url(" not in text
    assert "@import" not in text


def test_what_all_prompts_of_a_group_begin_with_is_written_once():
    records = [record(i, group="ab"[i % 2]) for i in range(400)]
    text = render_page(report(run(*records)))
    tasks, items = items_of(text)
    assert tasks[0]["shared"] == [EXAMPLES]
    assert items[7]["prompt"] == "Question: number 7?\nAnswer:"
    assert {item["shared"] for item in items} == {0}
    assert tasks[0]["skips"] == {"a": len("Question: number "), "b": len("Question: number ")}
    for item, one in zip(items, records, strict=True):
        assert tasks[0]["shared"][item["shared"]] + item["prompt"] == one.prompt


def test_what_is_short_or_stands_alone_is_not_folded():
    alone = run(record(0), record(1, group="b"))
    _, items = items_of(render_page(report(alone)))
    assert [item["shared"] for item in items] == [-1, -1]
    short = run(*(record(i, prompt=f"Q\n\n{i}") for i in range(3)))
    assert items_of(render_page(report(short)))[1][0]["prompt"] == "Q\n\n0"


def test_a_very_long_prompt_loses_its_middle_and_says_so():
    prompt = "a" * 300_000 + "the end"
    long = record(0, prompt=prompt, output="b" * 50_000, expected=["c" * 50_000])
    text = render_page(report(run(long)))
    assert len(text) < 150_000
    item = items_of(text)[1][0]
    head, left_out, tail = item["prompt"]
    assert len(head) + len(tail) == page.MAX_TEXT
    assert left_out == len(prompt) - page.MAX_TEXT
    assert tail.endswith("the end")
    assert item["output"][1] == 30_000
    assert "30,000 characters left out" in item["expected"][0]
    assert "20,000 characters the middle is left out" in text


def test_many_long_prompts_are_cut_further(monkeypatch):
    monkeypatch.setattr(page, "MAX_PAGE", 201_000)
    records = [record(i, prompt=f"{i} " + "x" * 30_000) for i in range(40)]
    text = render_page(report(run(*records)))
    assert len(text) < 350_000
    assert len(items_of(text)[1][0]["prompt"][0]) == 2_500
    monkeypatch.setattr(page, "MAX_PAGE", 1)
    text = render_page(report(run(*records)))
    assert len(items_of(text)[1][0]["prompt"][0]) == page.MIN_TEXT // 2


def test_14_042_items_with_examples_stay_a_small_page():
    records = [
        record(i, group=f"subject {i % 57}", prompt=f"{EXAMPLES * 6}Question {i}: {'why ' * 60}?")
        for i in range(14_042)
    ]
    text = render_page(report(run(*records)))
    assert sum(len(one.prompt) for one in records) > 40_000_000
    assert len(text) < 10_000_000
    assert len(items_of(text)[1]) == 14_042


def test_a_conversation_reads_like_one():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    chat = run(record(0, prompt=json.dumps(turns)), record(1, prompt='[{"role": "user", "con …'))
    _, items = items_of(render_page(report(chat)))
    assert items[0]["prompt"] == "⟦system⟧\nBe brief.\n\n⟦user⟧\nWhy?"
    assert items[1]["prompt"] == '[{"role": "user", "con …'


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_bytes", "acc_token"])
def test_the_chosen_answer_is_the_one_that_was_graded(metric):
    texts = (" no", " a longer answer", " ééééééé", " B")
    for gold in range(4):
        for logprobs in ((-3, -4, -5, -6), (-2, -12, -9, -1), (-4, -9, -7.5, -2.2)):
            scores = [
                Score(float(x), n, False) for x, n in zip(logprobs, (1, 4, 9, 1), strict=True)
            ]
            item = Choice(id="0", prompt="", choices=texts, gold=gold)
            grades = dict(grade_choice(item, scores))
            one = record(
                0,
                grades=grades,
                expected={"choices": list(texts), "gold": gold},
                scores=tuple((s.logprob, s.n_tokens, s.is_greedy) for s in scores),
            )
            shown = items_of(render_page(report(run(one, metric=metric))))[1][0]
            assert float(shown["chosen"] == gold) == grades[metric]


def test_numbers_that_json_lacks_do_not_break_the_page():
    odd = record(0, scores=((float("-inf"), 1, False), (float("nan"), 1, False)))
    item = items_of(render_page(report(run(odd))))[1][0]
    assert item["scores"][0][0] == "-inf"
    assert item["scores"][1][0] == "nan"


def test_a_likelihood_is_no_share_and_a_run_may_be_empty():
    bits = replace(run(record(0)), metric="gold_bpb", summary=summarise([record(0)]))
    tasks, _ = items_of(render_page(report(bits, run())))
    assert [task["isShare"] for task in tasks] == [False, True]
    assert tasks[0]["chance"] is None
    assert tasks[1]["head"] is None
    assert "no score" in render_page(report(run()))
    assert items_of(render_page(report()))[1] == []
    assert (shown_value(0.5513, True), shown_value(2.09341, False)) == ("55.1 %", "2.093")


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_draws_the_items_and_opens_the_one_that_is_linked(tmp_path):
    records = [record(i, acc=float(i % 2), group="ab"[i % 2]) for i in range(250)]
    records[30] = record(30, group="a", prompt=HOSTILE.replace("alert(1)", "document.title='evil'"))
    file = tmp_path / "page.html"
    file.write_text(render_page(report(run(*records))), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path}/profile"]
    command += ["--virtual-time-budget=5000", "--dump-dom", f"{file.as_uri()}#made_up/item%2F130"]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert len(re.findall(r'<details class="item ', dom)) == 100
    assert "101–200 of 250 items, 126 right" in dom
    opened = re.findall(r'<details class="item (\w+)" data-place="(\d+)" open', dom)
    assert opened == [("wrong", "130")]
    assert "Question: number 130?" in dom
    assert "right answer, chosen" in dom
    assert "<title>SmolLM2-135M: made_up</title>" in dom
