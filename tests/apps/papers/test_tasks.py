import pytest

from deepseek.apps.papers.tasks import builtin_tasks, load_tasks, resolve_tasks
from deepseek.core.errors import ConfigError

NAMES = {
    "method_innovation",
    "experiment_flaws",
    "summary",
    "contributions",
    "limitations",
    "datasets_and_metrics",
    "reproducibility",
}
MINE = """
[ethics]
title = { en = "Ethics", zh = "伦理" }

[[ethics.facets]]
kind = "risk"
title = { en = "Risks", zh = "风险" }
claim = { en = "a risk of the method", zh = "方法的风险" }
ask = { en = "Which risk is named?", zh = "提到什么风险？" }
roles = { conclusion = 1.0 }
cues = ['(?i)\\brisk']
"""


def test_the_named_tasks_exist_in_both_languages():
    assert set(builtin_tasks()) == NAMES
    for task in builtin_tasks().values():
        assert task.title["en"] != task.title["zh"]
        for facet in task.facets:
            assert facet.roles
            assert facet.cues


def test_names_questions_and_tasks_are_resolved_in_order():
    own = builtin_tasks()["summary"]
    names = [t.name for t in resolve_tasks(["limitations", "Which optimizer is used?", own])]
    assert names == ["limitations", "Which optimizer is used?", "summary"]
    assert resolve_tasks(["用了哪个优化器？"])[0].facets[0].search


def test_an_unknown_task_gets_a_suggestion():
    with pytest.raises(ConfigError) as caught:
        resolve_tasks(["method_inovation"])
    assert "method_innovation" in caught.value.hint


@pytest.mark.parametrize("asked", [[], ["x" * 2_000 + "?"]])
def test_nothing_and_too_much_are_refused(asked):
    with pytest.raises(ConfigError):
        resolve_tasks(asked)


def test_users_add_tasks(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(MINE, encoding="utf-8")
    tasks = load_tasks(file)
    assert resolve_tasks(["ethics"], tasks)[0].facets[0].kind == "risk"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("roles = {", "rolls = {", "did you mean roles"),
        ("conclusion = 1.0", "conclusions = 1.0", "did you mean conclusion"),
        ("\\\\brisk", "(risk", "is no pattern"),
        (', zh = "伦理"', "", "title"),
        ("[ethics]", "[Ethics]", "no task"),
    ],
)
def test_mistakes_in_a_task_file_are_named(tmp_path, old, new, said):
    file = tmp_path / "mine.toml"
    text = MINE.replace("'(?i)\\brisk'", "'(?i)\\\\brisk'").replace(old, new, 1)
    assert text != MINE
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_tasks(file)
    assert said in f"{caught.value.message} {caught.value.hint}"
