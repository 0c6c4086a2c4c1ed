"""The documents that a finished run kept, as a source for training."""

from pathlib import Path

from deepseek.core.errors import ConfigError
from deepseek.data.quality.layout import Layout
from deepseek.data.quality.pipeline import read_manifest


def kept_files(folder: Path) -> list[Path] | None:
    """The files of documents in the folder of a run; None if it is no such folder.

    Raises:
        ConfigError: The run is not complete, or a file is not what it wrote.
    """
    layout = Layout(folder)
    if not layout.manifest.exists() and not (layout.work / "run.json").exists():
        return None
    found = []
    for name, size, _ in read_manifest(folder)["files"]:
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise ConfigError(f"{file} is not as the run wrote it", "clean the data again")
        found.append(file)
    return found
