"""Runs the PDF worker on every file of a folder, each in a fork of its own.

`python fuzz_driver.py FOLDER` prints one line a file: name, exit status (negative: signal) and
the worker's last word. Starting Python anew for each file would take minutes.
"""

import os
import signal
import sys
from pathlib import Path

from deepseek.apps.documents import worker

SECONDS = 20


def main() -> None:
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*.pdf")):
        log = path.with_suffix(".log")
        child = os.fork()
        if child == 0:
            output = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            signal.alarm(SECONDS)
            status = worker.main(["glyphs", str(path), str(path.with_suffix(".npz"))])
            sys.stdout.flush()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        words = log.read_text(errors="replace").split("\n")
        said = next((line for line in words if line.startswith("error")), "")
        print(path.name, os.waitstatus_to_exitcode(status), said, flush=True)


if __name__ == "__main__":
    main()
