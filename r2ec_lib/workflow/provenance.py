"""What a result depends on besides its recipe: code, packages, machine, time."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from r2ec_lib.data.storage import read_json, write_json
from r2ec_lib.workflow import stages
from r2ec_lib.workflow.folder import ROOT, RunFolder
from r2ec_lib.workflow.recipes import Recipe

VERSIONS = (*stages.PACKAGES, "datasets", "papermill", "nbconvert")


def record(recipe: Recipe, run: RunFolder, variables: Mapping[str, str]) -> dict[str, Any]:
    """Writes and returns what a result depends on besides the recipe; the costs of stages already done are kept.

    variables: environment of the run's kernels, which has their number of threads.
    """
    changes = _output("git", "-C", str(ROOT), "status", "--porcelain")
    gpu = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    facts = {
        "name": recipe.name,
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": int(variables["OMP_NUM_THREADS"]),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu.splitlines() if gpu else [],
        "seed": recipe.values.get("seed", 0),
        "started": now(),
        "recipe": recipe.values,
        "stages": read_json(run.provenance)["stages"] if run.provenance.is_file() else {},
    }
    write_json(facts, run.provenance)
    return facts


def _output(*command: str) -> str | None:
    """What `command` prints, None where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return model[1] if model else platform.processor()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
