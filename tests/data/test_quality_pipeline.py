"""A cleaning run loses nothing, and ends in the same bytes however it was run or interrupted."""

import contextlib
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from quality_corpus import prose, write_lines

from deepseek.core.errors import ConfigError
from deepseek.data.quality import registry
from deepseek.data.quality.config import load_clean_config
from deepseek.data.quality.corpus import kept_files
from deepseek.data.quality.operator import KEEP, Context, Decision, Operator
from deepseek.data.quality.passes import Pass, passes_of
from deepseek.data.quality.pipeline import Pipeline, read_manifest
from deepseek.data.quality.shard import tables_in
from deepseek.data.quality.tally import Tally, bins_of, rule_of, value_of

CONFIG = """
[clean]
shard_bytes = 12_000
samples = 3

[sources.web]
paths = ["web"]

[sources.notes]
paths = ["notes"]
domain = "text"

[[operators]]
use = "gopher"
domains = ["web"]

[[operators]]
use = "exact"

[[operators]]
use = "pii"

[[operators]]
use = "minhash"

[[operators]]
use = "perplexity"
domains = ["web"]
reference = ["notes"]
above = 0.9
"""


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """40 good texts, 8 repeated, 8 nearly so, 4 too short; a broken line, a file without text."""
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    good = [prose(seed) for seed in range(40)]
    near = [text.replace("a", "a", 1) + "\nAnd a last line." for text in good[8:16]]
    texts = [*good, *good[:8], *near, *["short"] * 4]
    texts[3] += " Write to anna@mail.org about it."
    write_lines(tmp_path / "web" / "a.jsonl", texts[:30])
    write_lines(tmp_path / "web" / "b.jsonl", texts[30:])
    with (tmp_path / "web" / "b.jsonl").open("a") as file:
        file.write('{"text": "cut')
    (tmp_path / "notes").mkdir()
    for seed in range(100, 110):
        (tmp_path / "notes" / f"{seed}.txt").write_text(prose(seed))
    (tmp_path / "notes" / "bad.txt").write_bytes(b"\xff\xff")
    (tmp_path / "clean.toml").write_text(CONFIG)
    return tmp_path


def run(corpus, name, n_workers=1, on_progress=None):
    config = load_clean_config(corpus / "clean.toml")
    pipeline = Pipeline(config, corpus / name, n_workers=n_workers)
    return pipeline.run(on_progress)


def tree(folder):
    """Every file's name and digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(folder, kind):
    return [table for path in sorted((folder / kind).iterdir()) for table in tables_in(path)]


def test_every_document_ends_somewhere_with_its_reason(corpus):
    tally = run(corpus, "out").tally
    out = corpus / "out"
    kept, dropped, aside = (rows(out, kind) for kind in ("kept", "dropped", "quarantine"))
    assert sum(tally.read.values()) == len(kept) + len(dropped) == 70
    assert {row["place"]: row["reason"][:8] for row in aside} == {
        aside[0]["place"]: "no JSON:",
        "notes/bad.txt": "no UTF-8",
    }
    by = {}
    for row in dropped:
        by.setdefault(row["dropped_by"], []).append(row)
    assert [row["reason"] for row in by["gopher"]] == ["words 1 is below 50"] * 4
    assert len(by["exact"]) == 7
    assert len(by["minhash"]) == 9
    assert len(by["perplexity"]) == 4
    first = next(row for row in kept if row["source"] == "web")
    assert {"gopher.words", "perplexity.perplexity", "pii.email"} <= set(first["scores"])
    assert all("gopher.words" not in row["scores"] for row in kept if row["source"] == "notes")
    edited = [row for row in kept + dropped if row.get("edits")]
    assert [row["edits"] for row in edited] == [{"pii": "1 email redacted"}]
    assert "<EMAIL>" in edited[0]["text"]
    original = {row["reason"].split(": ")[1] for row in by["minhash"]}
    assert original <= {row["id"] for row in kept + by["perplexity"]}
    assert not (out / ".work").exists()


def test_workers_and_interruptions_change_no_byte(corpus):
    points = []
    run(corpus, "whole", on_progress=lambda *what: points.append(what))
    wanted = tree(corpus / "whole")
    run(corpus, "two", n_workers=2)
    assert tree(corpus / "two") == wanted

    class Stop(Exception):
        pass

    left = [0]

    def stop(*what):
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    n_stops = 0
    for step in range(3, 200, 2):  # each time a little further
        left[0] = step
        try:
            run(corpus, "stopped", on_progress=stop)
            break
        except Stop:
            n_stops += 1
    assert n_stops > 3
    assert tree(corpus / "stopped") == wanted
    assert run(corpus, "stopped").was_there
    assert tree(corpus / "stopped") == wanted


def command(corpus, name, *options):
    program = [sys.executable, "-m", "deepseek", "data", "clean", str(corpus / "clean.toml")]
    return [*program, "--out", str(corpus / name), *options]


def members(session):
    """Living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                if fields[0] != "Z" and int(fields[3]) == session:
                    found.append(folder.name)
    return found


def test_a_killed_run_ends_in_the_same_bytes(corpus):
    run(corpus, "whole")
    process = subprocess.Popen(
        command(corpus, "killed", "--workers", "2"), start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((corpus / "killed").rglob("tally/*.json"))) >= 4:
            break
        time.sleep(0.002)
    process.kill()  # its workers are to notice
    process.communicate()
    while time.monotonic() < deadline + 60 and members(process.pid):
        time.sleep(0.02)
    assert not members(process.pid)
    done = subprocess.run(
        command(corpus, "killed", "--workers", "2"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert tree(corpus / "killed") == tree(corpus / "whole")


def test_a_disk_that_fills_up_is_said_and_gone_on_from(corpus):
    run(corpus, "whole")
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from deepseek.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = command(corpus, "full", "--workers", "1")[3:]
    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert "goes on where it was" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((corpus / "full").rglob(".new-*"))
    run(corpus, "full")
    assert tree(corpus / "full") == tree(corpus / "whole")


def test_a_folder_of_another_run_is_refused(corpus):
    with pytest.raises(KeyboardInterrupt):
        run(corpus, "out", on_progress=interrupted)
    with pytest.raises(ConfigError, match="is not complete"):
        kept_files(corpus / "out")
    (corpus / "notes" / "100.txt").write_text(prose(500))
    with pytest.raises(ConfigError, match="other settings or data"):
        run(corpus, "out")
    run(corpus, "new")
    (corpus / "clean.toml").write_text(CONFIG.replace("0.9", "0.8"))
    with pytest.raises(ConfigError, match="other settings or data"):
        run(corpus, "new")
    (corpus / "full").mkdir()
    (corpus / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds mine\.txt already"):
        run(corpus, "full")


def interrupted(*_):
    raise KeyboardInterrupt


def test_kept_files_are_a_source_of_training(corpus):
    from deepseek.train.config import load_training_config
    from deepseek.train.prepare import source_files

    run(corpus, "out")
    (corpus / "train.toml").write_text(
        '[model]\ncheckpoint = "none"\n[sources.all]\npaths = ["out"]\n'
        '[[stages]]\nname = "one"\ntokens = 1000\nweights = { all = 1 }\n'
    )
    config = load_training_config(corpus / "train.toml")
    files = source_files(config)["all"]
    assert files == sorted((corpus / "out" / "kept").iterdir())
    assert kept_files(corpus / "notes") is None
    files[0].write_text("")
    with pytest.raises(ConfigError, match="not as the run wrote it"):
        source_files(config)
    (corpus / "out" / "clean.json").write_text("{}")
    with pytest.raises(ConfigError, match="damaged"):
        read_manifest(corpus / "out")


class Alone(Operator):
    """Runs in the main process, as one that holds a model does."""

    name = "alone"
    in_pool = False

    def score(self, batch):
        assert self.context.open_model is not None
        return {"size": np.array([float(len(self.context.open_model(d.text))) for d in batch])}

    def decide(self, batch, scores):
        return [Decision(f"size {s} is odd") if s % 2 else KEEP for s in scores["size"]]


def test_an_operator_with_a_model_runs_in_the_main_process(corpus, monkeypatch):
    monkeypatch.setitem(registry.OPERATORS, "alone", "alone:Alone")
    monkeypatch.setitem(sys.modules, "deepseek.data.quality.alone", sys.modules[__name__])
    text = CONFIG.replace('[[operators]]\nuse = "exact"', '[[operators]]\nuse = "alone"')
    (corpus / "clean.toml").write_text(text)
    config = load_clean_config(corpus / "clean.toml")
    outcome = Pipeline(config, corpus / "out", open_model=lambda text: text).run()
    counts = outcome.tally.operators["alone"]
    assert counts.seen == 66
    assert all(len(row["text"]) % 2 == 0 for row in rows(corpus / "out", "kept")
               if not row.get("edits"))  # fmt: skip


def test_passes_end_at_global_operators():
    class Local(Alone):
        in_pool = True

    class Global(Local):
        is_global = True

    made = [kind(None, Context(Path("."))) for kind in (Local, Global, Global, Local, Alone, Local)]
    assert passes_of(made) == [
        Pass(None, (0,), 1, True),
        Pass(1, (), 2, True),
        Pass(2, (3,), None, True),
        Pass(None, (4,), None, False),
        Pass(None, (5,), None, True),
    ]


def test_counts_of_parts_add_up():
    values = np.array([0.0, 1.0, -3.0, 1e-40, 1e40, 0.123])
    for value, number in zip(values, bins_of(values), strict=True):
        if 1e-20 < abs(value) < 1e20:
            assert value_of(int(number)) == pytest.approx(value, rel=0.03)
    a, b = Tally(read={"x": 1}), Tally(read={"x": 2, "y": 1})
    a.operator("o").add_score("s", np.array([1.0, np.nan]), np.array([True, False]))
    b.operator("o").add_score("s", np.array([1.0, 2.0]), np.array([True, False]))
    a.merge(Tally.from_table(json.loads(json.dumps(b.as_table()))), 3)
    assert a.read == {"x": 3, "y": 1}
    assert sum(a.operator("o").histograms["s"].values()) == 3
    assert sum(a.operator("o").dropped_histograms["s"].values()) == 1
    assert rule_of("words 12 is below 50") == "words"
    assert rule_of("near duplicate of: web/a@7") == "near duplicate of"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[clean]\nshard = 1", "unknown setting clean.shard"),
        ("[sources.a]\npaths = []\n[[operators]]\nuse = 'gofer'", "unknown operator 'gofer'"),
        ("[sources.a]\npaths = []\n[[operators]]\nname = 'x'", "an operator has no name"),
        ("[[operators]]\nuse = 'exact'", "there are no sources"),
        ("[sources.a]\npaths = []\n[[operators]]\nuse = 'exact'\ndomains = ['b']", "domain b"),
        (
            "[sources.a]\npaths = []\n[[operators]]\nuse = 'pii'\n[[operators]]\nuse = 'pii'",
            "two operators are called pii",
        ),
        ("[operator]\nuse = 'pii'", r"unknown section \[operator\]"),
        ("[clean]\nshard_bytes = 1\n[sources.a]\npaths = []", "shard_bytes is 1"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, message):
    (tmp_path / "clean.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_clean_config(tmp_path / "clean.toml")
