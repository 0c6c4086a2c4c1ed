import pytest

from deepseek.apps.papers.writer import Writer, shortened

QUOTE = "We propose the Gated Sparse Reader, a new model with one memory node per 256 tokens."


def write(rules, answer, language="en"):
    rules.answer = answer
    return Writer(rules, "A title", language).statement("What is proposed?", QUOTE)


def test_a_grounded_answer_is_kept_without_its_lead(rules):
    text, written = write(rules, "Answer: the Gated Sparse Reader, a new model.")
    assert written
    assert text == "The Gated Sparse Reader, a new model."


@pytest.mark.parametrize("answer", ["It has 512 experts.", "", "The answer is:", "GPT-4 wins."])
def test_an_answer_beyond_the_evidence_gives_way_to_the_quote(rules, answer):
    assert write(rules, answer) == (QUOTE, False)


def test_the_prompt_holds_evidence_and_question_in_the_papers_language(rules):
    write(rules, "x", "zh")
    assert QUOTE in rules.prompts[-1]
    assert "证据" in rules.prompts[-1]


def test_long_quotes_are_cut_at_a_word():
    cut = shortened("word " * 100)
    assert cut.endswith("word …")
    assert len(cut) < 250
