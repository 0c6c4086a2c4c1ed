"""Ranks that share the weights learn what one rank learns, and go on in any number."""

import json
import shutil
from pathlib import Path

import pytest
import rank_jobs
import torch
from rank_group import run_ranks
from rank_jobs import N_STEPS, trainer_of

from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.train.loop import Trainer
from deepseek.train.parallel import ParallelSettings
from deepseek.train.ranks import Ranks
from deepseek.train.state import SavedState

KINDS = ("dense", "mixture")
ALONE = ParallelSettings()
LOSSES, WEIGHTS = 1e-6, 2e-5
"""Most that losses differ by, relatively, and weights, of about 0.1: float32 sums in another order,
which Muon makes larger where a gradient has almost no length."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one, two and four ranks, and one that changes its ranks every other step."""
    folder = tmp_path_factory.mktemp("ranks")
    for kind in KINDS:
        rank_jobs.train(trainer_of(kind, folder, folder / f"{kind}-1", Ranks(), ALONE))
        chain = folder / f"{kind}-chain"
        rank_jobs.train(trainer_of(kind, folder, chain, Ranks(), ALONE), 2)
    run_ranks(2, rank_jobs.two, folder)
    run_ranks(4, rank_jobs.four, folder)
    return folder


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def last(out: Path) -> SavedState:
    folder = out / f"checkpoints/step-{N_STEPS:08d}"
    return SavedState(folder if folder.exists() else folder.with_name(f"{folder.name}.safetensors"))


def assert_same(found: Path, one: Path, trainer: Trainer) -> None:
    """Two runs have the same data, and losses and weights up to rounding."""
    assert len(losses(found)) == N_STEPS
    assert losses(found) == pytest.approx(losses(one), rel=LOSSES)
    theirs, own = last(found), last(one)
    assert theirs.facts["sampler"]["streams"] == own.facts["sampler"]["streams"]
    assert theirs.facts["sampler"]["drawn"] == own.facts["sampler"]["drawn"]
    assert theirs.facts["norms"] == pytest.approx(own.facts["norms"], rel=1e-5)
    for name, tensor in trainer.model.state_dict().items():
        if name == "head.weight":
            continue  # tied
        a, b = (each.tensor(f"model.{name}", tensor) for each in (theirs, own))
        if name.endswith("gate.bias"):
            assert torch.equal(a, b), "biases follow the counts of all ranks"
        assert torch.allclose(a, b, rtol=0, atol=WEIGHTS), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_weights_learn_what_one_learns(
    folder: Path, kind: str, ranks: int
) -> None:
    trainer = trainer_of(kind, folder, folder / f"{kind}-1", Ranks(), ALONE)
    assert_same(folder / f"{kind}-{ranks}", folder / f"{kind}-1", trainer)
    assert last(folder / f"{kind}-{ranks}").path.is_dir()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_in_other_numbers_of_ranks(folder: Path, kind: str) -> None:
    chain = folder / f"{kind}-chain"
    trainer = trainer_of(kind, folder, chain, Ranks(), ALONE)
    rank_jobs.train(trainer)
    kinds = [trainer.checkpoints.load(step).path.is_dir() for step in (2, 4, 6, 8)]
    assert kinds == [False, True, True, False]
    assert_same(chain, folder / f"{kind}-1", trainer)


def test_the_mean_of_checkpoints_is_the_same_from_folders(folder: Path) -> None:
    trainers = [
        trainer_of("mixture", folder, folder / f"mixture-{n}", Ranks(), ALONE) for n in (1, 4)
    ]
    for trainer in trainers:
        trainer.checkpoints.average([6, 8], trainer.model)
    one, four = (trainer.model.state_dict() for trainer in trainers)
    assert all(torch.allclose(one[name], four[name], rtol=0, atol=WEIGHTS) for name in one)


def test_nothing_in_a_folder_is_pickled_and_damage_is_said(folder: Path, tmp_path: Path) -> None:
    kept = folder / "dense-2/checkpoints/step-00000008"
    assert {file.suffix for file in kept.iterdir()} == {".json", ".safetensors"}
    assert len(list(kept.glob("*.safetensors"))) == 2
    for number, harm in enumerate(("cut", "missing", "more", "facts")):
        copy = tmp_path / str(number) / "step-00000008"
        shutil.copytree(kept, copy)
        files = sorted(copy.glob("*.safetensors"))
        if harm == "cut":
            files[1].write_bytes(files[1].read_bytes()[:-8])
        elif harm == "missing":
            files[1].unlink()
        elif harm == "more":
            shutil.copy(files[0], copy / "other.safetensors")
        else:
            (copy / "facts.json").write_text('{"files": [], "facts": {}}')
        with pytest.raises(CheckpointError):
            SavedState(copy)
    trainer = trainer_of("mixture", tmp_path, tmp_path / "other", Ranks(), ALONE)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        SavedState(kept).restore(trainer.model, trainer._optimiser)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tensor": 2}, "parallel.tensor is 2: there is no such parallelism"),
        ({"pipeline": 2}, "parallel.pipeline"),
        ({"context": 4}, "parallel.context"),
        ({"expert": 0}, "parallel.expert is 0"),
        ({"expert": 2}, "parallel.data is whole"),
    ],
)
def test_what_is_not_there_is_said(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ParallelSettings(**settings)
