"""The paper as a whole before the model: what it is asked then, and what stands in the report."""

import contextlib
import itertools
import json
import time

import pytest
from tests.apps.papers.conftest import RuleModel

from deepseek.apps.papers.analyse import analyse_paper
from deepseek.apps.papers.answers import Answers
from deepseek.apps.papers.candidates import Outlook
from deepseek.apps.papers.progress import READING
from deepseek.apps.papers.reading import BETWEEN, ROOM, read_whole
from deepseek.core.errors import ConfigError
from deepseek.core.llm import Attended, Completion

ADAM = "The model is trained with Adam and a batch size of 16."
QUESTION = "Which optimizer trains the reader?"


class Reader(RuleModel):
    """Answers with the paper in view otherwise than without, and says what it saw."""

    def generate(self, prompt, params=None):
        answer = super().generate(prompt, params)
        if BETWEEN["en"] not in self.prompts[-1]:
            return Completion(text="", token_ids=(), finish_reason="stop", n_prompt_tokens=1)
        seen = Attended(
            n_tokens=9_000,
            window=520,
            sinks=128,
            recalled=2_048,
            n_memory_nodes=560,
            tier_bytes={"hot": 1},
        )
        return Completion(
            text=answer.text,
            token_ids=(1,),
            finish_reason="stop",
            n_prompt_tokens=1,
            attended=seen,
        )


def answers(paper, model):
    reading, why = read_whole(paper, model)
    assert reading is not None, why
    return Answers(Outlook(paper), model, reading)


def test_the_whole_text_comes_before_the_question(paper, rules):
    reading, why = read_whole(paper, rules)
    assert (reading.extent, why) == ("whole", "")
    assert reading.text == "\n".join(page.text for page in paper.pages)
    assert reading.n_tokens == rules.count_tokens(reading.text)
    *_, asked = reading.followed_by("Why?")
    assert asked.content.startswith(reading.text)
    assert asked.content.endswith("Why?")


def test_without_room_for_references_the_body_is_read(paper, rules):
    whole = rules.count_tokens("\n".join(page.text for page in paper.pages))
    rules.context_window = whole + ROOM - 1
    reading, _ = read_whole(paper, rules)
    assert reading.extent == "body"
    assert "Dense attention. 2019" not in reading.text
    assert "Code is available at" in reading.text
    rules.context_window = ROOM + 100
    reading, why = read_whole(paper, rules)
    assert reading is None
    assert f"{ROOM + 100:,}" in why
    assert "sentence by sentence" in why


def test_an_answer_stands_on_the_sentences_that_carry_it(paper):
    found = answers(paper, Reader(ADAM)).answer(QUESTION)
    texts = [paper.text_of(paper.sentences[i]) for i in found.passages]
    assert len(texts) == 1
    assert texts[0].startswith("We train with Adam")
    assert found.statement == ADAM
    assert found.confidence > 0.5


@pytest.mark.parametrize(
    "answer",
    [
        "It is trained with SGD and a batch size of 16.",
        "We use 99 GPUs.",
        "",
        "The answer is:",
        "Yes, the optimizer trains the reader.",  # repeats the question
    ],
)
def test_an_answer_that_nothing_carries_is_left_out(paper, answer):
    assert answers(paper, Reader(answer)).answer(QUESTION) is None


def test_an_answer_that_the_model_takes_back_is_left_out(paper):
    class Doubter(Reader):
        def score(self, prompt, continuations):
            return super().score(prompt, continuations)[::-1]

    assert answers(paper, Doubter(ADAM)).answer(QUESTION) is None


def test_answers_on_the_whole_paper_are_findings_with_verified_quotes(paper):
    model = Reader(ADAM)
    analysis = analyse_paper(paper, model, ["name the optimizer used"])
    (result,) = analysis.tasks
    assert [f.statement for f in result.findings if f.in_view == "paper"] == [ADAM]
    assert all(e.verified for f in result.findings for e in f.evidence)
    assert analysis.reading.attended.recalled == 2_048
    for report in (str(analysis), analysis.to_html()):
        assert "2,048 recalled of 8,352 between" in report
        assert "whole paper in view" in report
    assert json.loads(analysis.to_json())["reading"]["attended"]["sinks"] == 128


def test_the_paper_is_read_once_after_all_sentences_were_judged(paper):
    model = Reader()
    analyse_paper(paper, model, ["summary", "limitations", QUESTION])
    whole = [BETWEEN["en"] in prompt for prompt in model.prompts]
    assert whole == sorted(whole)
    assert any(whole)
    beginnings = {p.split(BETWEEN["en"])[0] for p in model.prompts if BETWEEN["en"] in p}
    assert len(beginnings) == 1


def test_what_the_whole_paper_says_replaces_what_was_not_found(paper):
    class Blind(Reader):
        """Sees nothing in sentences, but something in the paper."""

        def score(self, prompt, continuations):
            scores = super().score(prompt, continuations)
            return scores if BETWEEN["en"] in self.prompts[-1] else scores[::-1]

    answer = "The gate must be trained for each domain."
    told = []
    result = analyse_paper(paper, Blind(answer), ["limitations"], on_finding=told.append)
    kinds = {f.kind for f in result.findings}
    assert "stated_limitation" in kinds
    assert "no_stated_limitation" not in kinds
    assert sorted(told, key=str) == sorted(result.findings, key=str)
    alone = analyse_paper(paper, Blind(answer), ["limitations"], read="sentences")
    assert [f.kind for f in alone.findings] == ["no_stated_limitation"]


def test_a_quote_that_was_found_before_is_not_found_twice(paper):
    limit = "A limitation is that the gate must be trained for each domain."
    findings = analyse_paper(paper, Reader(limit), ["limitations"])["limitations"].findings
    main = [f.evidence[0].spans for f in findings]
    assert len(set(main)) == len(main)
    assert "paper" in {f.in_view for f in findings}


def test_sentences_alone_never_show_the_paper(paper, rules):
    analysis = analyse_paper(paper, rules, ["summary"], read="sentences")
    assert analysis.reading is None
    assert not any(BETWEEN["en"] in prompt for prompt in rules.prompts)


def test_a_paper_that_does_not_fit_is_said_to_be_read_by_sentences(paper, rules):
    rules.context_window = 1_700
    analysis = analyse_paper(paper, rules, ["summary"])
    assert analysis.reading is None
    assert any("1,700" in warning for warning in analysis.warnings)
    assert analysis.findings
    with pytest.raises(ConfigError, match="context window"):
        analyse_paper(paper, rules, ["summary"], read="whole")


class Slow(Reader):
    """Tells what it reads before it answers on the whole paper."""

    on_prefill = None

    @contextlib.contextmanager
    def watched(self, on_prefill):
        self.on_prefill = on_prefill
        yield
        self.on_prefill = None

    def generate(self, prompt, params=None):
        if self.on_prefill is not None:
            for done in range(0, 4_000, 1_000):
                self.on_prefill(done, 4_000)
        return super().generate(prompt, params)


def test_reading_is_told_in_tokens_to_its_end(paper):
    seen = []
    analyse_paper(paper, Slow(ADAM), [QUESTION], on_progress=seen.append)
    tokens = [(p.done, p.total) for p in seen if p.unit == "tokens"]
    assert tokens == [(done, 4_000) for done in range(0, 5_000, 1_000)]
    assert {p.step for p in seen if p.unit == "tokens"} == {READING["en"]}


def test_the_time_limit_ends_the_reading(paper, monkeypatch):
    seconds = itertools.count(int(time.perf_counter()))

    class Endless(Slow):
        def generate(self, prompt, params=None):
            while self.on_prefill is not None:
                self.on_prefill(0, 4_000)
            return super().generate(prompt, params)

    monkeypatch.setattr(
        "deepseek.apps.papers.progress.time.perf_counter", lambda: float(next(seconds))
    )
    analysis = analyse_paper(paper, Endless(ADAM), [QUESTION], time_limit=5_000.0)
    assert "time limit" in analysis.tasks[0].note
    assert analysis.findings  # by sentences, before
    assert analysis.reading is None
