"""Several ranks as forked processes: the slow imports are done once for all of them."""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from deepseek.train.ranks import Ranks

Job = Callable[[Ranks, Path], None]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["rank_jobs"])


def run_ranks(size: int, job: Job, folder: Path, seconds: float = 120) -> None:
    """Let a job run on every rank of a group; it leaves its results in the folder."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    members = [
        _CONTEXT.Process(target=_member, args=(rank, size, port, job, folder))
        for rank in range(size)
    ]
    for member in members:
        member.start()
    end = time.monotonic() + seconds
    while any(member.is_alive() for member in members) and time.monotonic() < end:
        if any(member.exitcode for member in members):
            break  # the others would wait for it
        time.sleep(0.02)
    for member in members:
        member.kill()
        member.join()
    errors = [file.read_text() for file in sorted(folder.glob("error-*"))]
    assert not errors, errors[0]
    assert [member.exitcode for member in members] == [0] * size


def _member(rank: int, size: int, port: int, job: Job, folder: Path) -> None:
    import torch

    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        ranks = Ranks.join(torch.device("cpu"))
        job(ranks, folder)
        ranks.leave()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        os._exit(1)
