"""Mistakes in a config are named with a way out."""

from pathlib import Path

import pytest

from deepseek.core.errors import ConfigError
from deepseek.train.config import load_training_config
from deepseek.train.plan import plan_run
from deepseek.train.prepare import model_config, source_files

GOOD = """
[model]
preset = "{root}/configs/r1-tiny.toml"
[sources.a]
paths = ["x"]
[sources.b]
paths = ["y"]
[[stages]]
name = "one"
tokens = 20_000
weights = {{ a = 1 }}
[[stages]]
name = "two"
tokens = 10_000
weights = {{ a = 1, b = 1 }}
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(GOOD.format(root=ROOT))
    return path


def test_stages_become_steps(file: Path) -> None:
    plan = plan_run(load_training_config(file))
    assert [(s.name, s.start, s.end) for s in plan.stages] == [("one", 0, 3), ("two", 3, 5)]
    assert [plan.stage_of(step).name for step in range(5)] == ["one"] * 3 + ["two"] * 2


def test_a_stage_may_have_a_schedule_of_its_own(file: Path) -> None:
    text = file.read_text().replace("tokens =", 'schedule = { kind = "constant" }\ntokens =')
    file.write_text(text)
    plan = plan_run(load_training_config(file))
    assert plan.stages[1].schedule is not None
    assert plan.rate_factor(4) == 1.0


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        ("run.windw=3", "unknown setting run.windw", "did you mean window?"),
        ("runs.window=3", "unknown section [runs]", "did you mean run?"),
        ("run.window=0", "run.window is 0", "1 or more"),
        ('run.dtype="float8"', "run.dtype is 'float8'", "one of"),
        ("stages=[]", "no stages", "[[stages]]"),
        ("sources={}", "no sources", "[sources.NAME]"),
        ("sources.a.paths=[]", "paths is []", "name files"),
        ("optimiser.rate=-1.0", "optimiser.rate is -1.0", "positive"),
        ("mixture.bound=0.5", "mixture.bound is 0.5", "1 or more"),
        ("mixture.dynamic=3", "mixture.dynamic is 3", "true or false"),
        ("evaluation.held_out=0.9", "held_out 0.9", "share"),
        ("run=3", "run is no section", "[run]"),
        ("parallel.tensor=2", "parallel.tensor is 2: there is no such parallelism", "sharded"),
        ("parallel.expert=2", "parallel.data is whole", 'data = "sharded"'),
        ('run.precision="fp4"', "run.precision is 'fp4'", "one of"),
    ],
)
def test_mistakes(file: Path, change: str, said: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_training_config(file, (change,))
    assert said in error.value.message
    assert hint in error.value.hint


def test_parts_of_a_model_are_not_sharded(file: Path) -> None:
    changes = ('trainable.only=["*norm*"]', 'parallel.data="sharded"')
    load_training_config(file, changes[:1])
    with pytest.raises(ConfigError, match=r"\[trainable\] names parts"):
        load_training_config(file, changes)


def test_stages_name_sources_that_exist(file: Path) -> None:
    file.write_text(file.read_text().replace("{ a = 1, b = 1 }", "{ a = 1, c = 1 }"))
    with pytest.raises(ConfigError, match="weights name c"):
        load_training_config(file)


def test_a_preset_takes_the_vocabulary_of_the_tokenizer_and_changes(file: Path) -> None:
    config = load_training_config(file, ("model.n_layers=2",))
    shape = model_config(config, 700)
    assert (shape.vocab_size, shape.n_layers) == (700, 2)
    small = load_training_config(file, ("model.vocab_size=300",))
    with pytest.raises(ConfigError, match="the model has 300 tokens, the tokenizer 700"):
        model_config(small, 700)


def test_what_does_not_change_results_is_no_part_of_a_run(file: Path) -> None:
    first = load_training_config(file).identity()
    same = ("run.micro=1", "checkpoint.every=7", "evaluation.every=3", "run.threads=2")
    same = (*same, 'parallel.data="sharded"', "parallel.expert=2")
    assert load_training_config(file, same).identity() == first
    for change in (
        "run.seed=1",
        "optimiser.decay=0.2",
        "evaluation.held_out=0.1",
        'run.precision="fp8"',
    ):
        assert load_training_config(file, (change,)).identity() != first


def test_texts_for_evaluation_are_not_trained_on(file: Path) -> None:
    for name in "xy":
        (file.parent / name).mkdir()
        (file.parent / name / "a.txt").write_text(name)
    config = load_training_config(file, ('evaluation.paths=["y/a.txt"]',))
    with pytest.raises(ConfigError, match=r"a\.txt is in evaluation\.paths and in source b"):
        source_files(config)
    assert set(source_files(load_training_config(file))) == {"a", "b"}
