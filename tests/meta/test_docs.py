"""The documentation says what the code does."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

import deepseek
from deepseek.apps.papers.tasks import builtin_tasks
from deepseek.cli.main import VERBS, parser_of
from deepseek.data.quality.config import load_clean_config
from deepseek.data.quality.operator import Context
from deepseek.model.config import load_preset
from deepseek.train.config import load_training_config
from deepseek.train.prepare import model_config
from deepseek.weights.registry import load_registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
]
PROSE = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_examples_compile_and_import_what_exists(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "deepseek":
                for alias in node.names:
                    assert hasattr(deepseek, alias.name)


def test_every_command_in_the_docs_parses():
    commands = re.findall(r"^(?:\$ )?deepseek ([a-z]+)([^\n`|&]*)$", PROSE, re.MULTILINE)
    assert len(commands) >= 5
    for verb, rest in commands:
        assert verb in VERBS, verb
        options = set(re.findall(r"(--[a-z-]+)", rest))
        known = set(parser_of(verb)._option_string_actions)
        assert options <= known, f"deepseek {verb}{rest}"


def test_verbs_tasks_checkpoints_presets_and_names_are_documented():
    for name in (*VERBS, *builtin_tasks(), *load_registry(), *deepseek.__all__):
        assert f"`{name}`" in PROSE or f"deepseek {name}" in PROSE or f"`{name}(" in PROSE, name
    for preset in (ROOT / "configs").glob("*.toml"):
        assert preset.stem in PROSE


def test_extras_and_make_targets_are_documented():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE):
        assert f"make {target}" in PROSE, target
    for extra in PROJECT["optional-dependencies"]:
        assert f"`{extra}`" in PROSE, extra


CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
RUNS = [path for path in CONFIGS if path.stem.startswith("train-")]
CLEANINGS = sorted((ROOT / "configs" / "data").glob("clean-*.toml"))
PRESETS = [path for path in CONFIGS if path not in RUNS]


@pytest.mark.parametrize("run", RUNS, ids=lambda p: p.stem)
def test_every_training_config_loads_and_states_its_size(run):
    config = load_training_config(run)
    shape = model_config(config, config.tokenizer.vocab_size)
    stated = re.search(r"([\d,.]+) M parameters", run.read_text(encoding="utf-8"))
    assert stated, "say how many parameters the model has"
    assert float(stated[1].replace(",", "")) == round(shape.n_parameters / 1e6, 1)


@pytest.mark.parametrize("file", CLEANINGS, ids=lambda p: p.stem)
def test_every_cleaning_config_loads(file):
    config = load_clean_config(file)
    assert config.operators(Context(config.folder))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_every_preset_loads_and_states_its_size(preset):
    config = load_preset(preset)
    stated = re.search(r"([\d,.]+) M parameters", preset.read_text(encoding="utf-8"))
    assert stated, "say how many parameters it has"
    assert float(stated[1].replace(",", "")) == round(config.n_parameters / 1e6, 1)


def test_the_changelog_has_something_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased = text.split("## [Unreleased]", 1)[1].split("\n## ", 1)[0]
    assert re.search(r"^- ", unreleased, re.MULTILINE)


def test_figures_have_a_result_file_behind_them():
    named = set(re.findall(r"benchmarks/results/([a-z_]+)\.json", PROSE))
    for name in named:
        result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        assert {"command", "commit", "date", "hardware", "rows"} <= set(result)


def test_the_file_map_in_architecture_equals_the_tree():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    packages = {
        str(p.parent.relative_to(ROOT / "src" / "deepseek"))
        for p in (ROOT / "src" / "deepseek").rglob("__init__.py")
    } - {"."}
    named = set(re.findall(r"^\| `([a-z_/]+)/` \|", text, re.MULTILINE))
    assert named == packages
