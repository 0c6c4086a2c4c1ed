"""Answers are judged as the scorers of lm-eval and SQuAD judge them."""

import pytest

from deepseek.eval.answers import (
    best_f1,
    exact_match,
    last_number,
    normalised,
    same_number,
    stated_number,
)

# Output, gold answer, and what lm-eval 0.4.13 makes of them: its two extractions, its two scores.
BY_LM_EVAL = [
    (" 5 + 4 = 9. The answer is 9.\n\n", "9", "9", "9.", 1.0, 1.0),
    (" The answer is 1,234.\n", "1234", "1,234", "1,234.", 1.0, 1.0),
    (" The answer is -7. Q", "-7", "-7.", "-7.", 1.0, 1.0),
    (" She pays $18. The answer is $18.", "18", "[invalid]", "$18.", 0.0, 1.0),
    (" It is 18 dollars.", "18", "[invalid]", "18", 0.0, 1.0),
    (" The answer is 3.0.", "3", "3.0", "3.0.", 0.0, 0.0),
    (" The answer is 18", "18", "1", "18", 0.0, 1.0),
    (" The answer is 7. The answer is 18.", "18", "7.", "18.", 0.0, 1.0),
    (" none at all", "5", "[invalid]", "[invalid]", 0.0, 0.0),
    (" 18 apples, and 5", "5", "[invalid]", "5", 0.0, 1.0),
    (" ... ", "5", "[invalid]", "...", 0.0, 0.0),
    (" The answer is 18.50.", "18.50", "18.50", "18.50.", 1.0, 1.0),
    (" costs $1,234.56 in all.", "1234.56", "[invalid]", "$1,234.56", 0.0, 1.0),
    (" The answer is 18,.", "18", "18,", "18,.", 1.0, 1.0),
    ("The answer is 1", "1", "[invalid]", "1", 0.0, 1.0),
    (" 2 3-4", "4", "[invalid]", "-4", 0.0, 0.0),
]

# Answer, gold answers, and the exact match and F1 of SQuAD v1.1's own script.
BY_SQUAD = [
    (" The Levi's Stadium.", ["Levi's Stadium", "Santa Clara"], 1.0, 1.0),
    ("July", ["July 1899", "1899"], 0.0, 2 / 3),
    ("a an the", ["the"], 1.0, 0.0),
    ("in July 1899, at noon", ["July 1899"], 0.0, 4 / 7),
    ("Ångström’s law", ["ångström's law"], 0.0, 0.5),
    ("", ["x"], 0.0, 0.0),
    ("the theatre", ["theatre"], 1.0, 1.0),
    ("23-years", ["23 years"], 0.0, 0.0),
]


@pytest.mark.parametrize(("output", "gold", "stated", "last", "strict", "flexible"), BY_LM_EVAL)
def test_numbers_as_lm_eval(
    output: str, gold: str, stated: str, last: str, strict: float, flexible: float
) -> None:
    assert stated_number(output) == stated
    assert last_number(output) == last
    assert same_number(stated, gold) == strict
    assert same_number(last, gold) == flexible


@pytest.mark.parametrize(("answer", "gold", "exact", "overlap"), BY_SQUAD)
def test_words_as_squad(answer: str, gold: list[str], exact: float, overlap: float) -> None:
    assert exact_match(answer, gold) == exact
    assert best_f1(answer, gold) == pytest.approx(overlap)


def test_normalisation_leaves_words_that_contain_articles() -> None:
    assert normalised("  The Athenian, an anthem: A. ") == "athenian anthem"
