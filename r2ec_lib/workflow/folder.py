"""Where things stand: the project's folders, and every path inside a run."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"
LIBRARY = ROOT / "r2ec_lib"


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run: its own files say so."""
    return (folder / "recipe.yaml").is_file() or (folder / ".stages").is_dir()


def shown(path: Path) -> str:
    """`path` as seen from the working directory, for messages."""
    return os.path.relpath(path)
