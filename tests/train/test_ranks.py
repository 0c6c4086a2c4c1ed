"""Two processes learn what one learns."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from tiny_run import tiny_plan, tiny_trainer

from deepseek.train.state import SavedState

PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import torch
from deepseek.train.ranks import Ranks
from tiny_run import tiny_plan, tiny_trainer
torch.set_num_threads(1)
ranks = Ranks.join(torch.device("cpu"))
folder = Path(sys.argv[1]) / f"rank-{ranks.rank}"
trainer = tiny_trainer(folder, plan=tiny_plan(6), ranks=ranks, out=Path(sys.argv[1]) / "run")
trainer.run()
ranks.leave()
"""


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    here = Path(__file__).parent
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", str(program), str(tmp_path), str(here)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone = tiny_trainer(tmp_path, plan=tiny_plan(6), out=tmp_path / "alone")
    alone.run()
    both = SavedState(tmp_path / "run/checkpoints/step-00000006.safetensors")
    own = alone.sampler.state()
    assert both.facts["sampler"]["streams"] == own["streams"]
    assert both.facts["sampler"]["drawn"] == own["drawn"]
    for name, p in alone.model.named_parameters():
        assert torch.allclose(both.tensor(f"model.{name}", p), p, rtol=0, atol=1e-5), name
