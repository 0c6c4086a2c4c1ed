"""The launch files in deploy/, run here with two ranks; one of them is killed on the way."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from deepseek.cli.main import parser_of
from deepseek.model.checkpoint import load_model
from deepseek.train.state import SavedState
from deepseek.weights.mapping import MappedFile
from deepseek.weights.safetensors import read_entries
from deepseek.weights.source import open_weights

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
N_STEPS = 60
PRESET = """
[model]
family = "llama"
vocab_size = 300
d_model = 32
n_layers = 2
n_heads = 4
n_kv_heads = 2
d_head = 8
d_ff = 64
context_window = 64
[moe]
form = "full"
shared = 16
[[moe.groups]]
name = "text"
sizes = [8, 24, 16]
[[moe.groups]]
name = "code"
sizes = [40, 8]
"""
CONFIG = f"""
[run]
window = 32
batch = 4
micro = 2
threads = 1
[parallel]
data = "sharded"
expert = 2
[model]
preset = "preset.toml"
[tokenizer]
vocab_size = 300
[sources.text]
paths = ["text"]
[optimiser]
kind = "muon"
[[stages]]
name = "only"
tokens = {N_STEPS * 128}
weights = {{ text = 1 }}
[evaluation]
every = 30
held_out = 0.1
tokens = 500
[checkpoint]
every = 5
average = 2
"""
# What Slurm gives, in a few lines: one machine, which is this one.
COMMANDS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": "echo 127.0.0.1",
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "text").mkdir()
    for number in range(40):
        words = " ".join(["one", "and", "another"][(number * k) % 3] for k in range(5 + number))
        (folder / "text" / f"{number}.txt").write_text(f"text {number}: {words}")
    (folder / "train.toml").write_text(CONFIG)
    (folder / "preset.toml").write_text(PRESET)
    (folder / "bin").mkdir()
    for name, body in COMMANDS.items():
        file = folder / "bin" / name
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return folder


def environment(project: Path, **more: str) -> dict[str, str]:
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    home = {"DEEPSEEK_HOME": str(project / "home"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **home, "PATH": path, **more}


def free_port() -> str:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return str(own.getsockname()[1])


def command_of(container: dict[str, Any], places: dict[str, str]) -> list[str]:
    """A container's command line, with paths of this machine."""
    words = [*container["command"], *container["args"]]
    return [places.get(word, word) for word in words]


def manifests(name: str) -> dict[str, Any]:
    text = (DEPLOY / name).read_text()
    return {table["kind"]: table for table in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> Path:
    """A run by the PyTorchJob's own command line, with the variables that the operator sets."""
    out = project / "undisturbed"
    job = manifests("pytorchjob.yaml")["PyTorchJob"]["spec"]
    pod = job["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    places = {"/configs/train.toml": str(project / "train.toml"), "/runs/mine": str(out)}
    variables = {
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": "2",
        "PET_RDZV_BACKEND": job["elasticPolicy"]["rdzvBackend"],
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{free_port()}",
        "PET_RDZV_ID": "mine",
        "PET_MAX_RESTARTS": str(job["elasticPolicy"]["maxRestarts"]),
    }
    done = subprocess.run(
        command_of(pod["containers"][0], places),
        env=environment(project, **variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
    return out


def rank_1(out: Path) -> int | None:
    """The process of rank 1 among those that were started for a run."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if {b"RANK=1", f"OUT={out}".encode()} <= set(words):
                return int(folder.name)
    return None


def contents(file: Path) -> dict[str, bytes]:
    """Tensors as bytes; the order of what else stands in a header is by chance."""
    if file.suffix != ".safetensors":
        return {file.name: file.read_bytes()}
    entries = read_entries(MappedFile(file))
    return {name: entry.file.read(entry.start, entry.n_bytes) for name, entry in entries.items()}


def test_a_killed_rank_restarts_and_the_run_ends_in_the_same_bytes(
    project: Path, undisturbed: Path
) -> None:
    out = project / "killed"
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_CPUS_PER_TASK": "2",
        "RANKS_PER_NODE": "2",
        "PORT": free_port(),
        "OUT": str(out),
    }
    script = ["bash", str(DEPLOY / "train.sbatch"), str(project / "train.toml")]
    with (project / "log").open("w+") as log:
        job = subprocess.Popen(
            [*script, "--set", "run.seed=0"],
            env=environment(project, **slurm),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        metrics, end = out / "metrics.jsonl", time.monotonic() + 240
        while time.monotonic() < end and job.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") > N_STEPS // 5:
                break
            time.sleep(0.01)
        victim = rank_1(out)
        assert victim is not None, (project / "log").read_text()
        os.kill(victim, signal.SIGKILL)
        assert job.wait(240) == 0, (project / "log").read_text()
    text = (project / "log").read_text()
    went_on = re.search(r"going on after step (\d+) of", text)
    assert went_on, text
    assert 0 < int(went_on[1]) < N_STEPS
    names = sorted(file.name for file in (undisturbed / "checkpoints").iterdir())
    assert names == sorted(file.name for file in (out / "checkpoints").iterdir())
    for name in names:
        for file in sorted((undisturbed / "checkpoints" / name).iterdir()):
            theirs = out / "checkpoints" / name / file.name
            assert contents(file) == contents(theirs), file
    weights = "model/model.safetensors"
    assert (undisturbed / weights).read_bytes() == (out / weights).read_bytes()


def test_the_result_is_the_mean_of_the_last_folders(undisturbed: Path) -> None:
    model = load_model(open_weights(undisturbed / "model"), dtype=torch.float32, pack=False)
    saved = [
        SavedState(undisturbed / f"checkpoints/step-{step:08d}") for step in (N_STEPS - 5, N_STEPS)
    ]
    for name, own in model.state_dict().items():
        if name != "head.weight":  # tied
            mean = sum(one.tensor(f"model.{name}", own).double() for one in saved) / 2
            assert torch.equal(own, mean.float()), name


def test_launch_files_are_well_formed() -> None:
    script = DEPLOY / "train.sbatch"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(script)], capture_output=True, check=False)
        assert done.returncode == 0, done.stdout
    head = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(), re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "time", "requeue"} <= set(head)
    assert "#SBATCH" not in script.read_text().split("set -euo pipefail")[1], "read by none there"


def test_manifests_have_the_fields_of_their_kinds_and_one_command() -> None:
    old = manifests("pytorchjob.yaml")["PyTorchJob"]
    new = manifests("trainjob.yaml")
    assert old["apiVersion"] == "kubeflow.org/v1"
    assert set(old["spec"]) <= {
        "elasticPolicy",
        "nprocPerNode",
        "pytorchReplicaSpecs",
        "runPolicy",
    }
    policy, worker = old["spec"]["elasticPolicy"], old["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert policy["minReplicas"] == policy["maxReplicas"] == worker["replicas"]
    assert set(worker) == {"replicas", "restartPolicy", "template"}
    for table in new.values():
        assert table["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    job, runtime = new["TrainJob"]["spec"], new["TrainingRuntime"]
    assert set(job) <= {"runtimeRef", "trainer", "suspend"}
    assert job["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert set(job["trainer"]) <= {
        *("args", "command", "env", "image", "numNodes", "numProcPerNode", "resourcesPerNode")
    }
    assert set(runtime["spec"]) == {"mlPolicy", "template"}
    assert "torch" in runtime["spec"]["mlPolicy"]
    node = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    pods = [worker["template"]["spec"], node["template"]["spec"]["template"]["spec"]]
    assert [pod["containers"][0]["name"] for pod in pods] == ["pytorch", "node"]
    for pod in pods:
        mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
    words = [command_of(part, {}) for part in (pods[0]["containers"][0], job["trainer"])]
    assert words[0] == [word for word in words[1] if not word.startswith("--max-restarts")]


def test_the_ray_job_runs_a_command_that_there_is() -> None:
    job = manifests("rayjob.yaml")["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    cluster = job["spec"]["rayClusterSpec"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras["ray"] == [f"ray[data]=={cluster['rayVersion']}"]
    program, *argv = job["spec"]["entrypoint"].split()
    args = parser_of(argv[0]).parse_args(argv[1:])
    assert (program, args.action, args.ray) == ("deepseek", "clean", True)
    nodes = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    n_cpus = int(nodes[1]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert args.workers == n_cpus * nodes[1]["replicas"]
    assert nodes[1]["minReplicas"] == nodes[1]["maxReplicas"] == nodes[1]["replicas"]
    for node in nodes:
        pod = node["template"]["spec"]
        mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
