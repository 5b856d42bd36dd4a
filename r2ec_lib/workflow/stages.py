"""What a stage of a run depends on, what it left behind, and whether it has to run again.

A stage is a notebook. Its state file `<run>/.stages/<stage>.json` holds what went into it: the notebook, its
parameters, the library modules that it imports (directly or not) with the tables and templates beside them, its local
input files, the versions of Python and of the packages that decide results, and the keys of the stages that it reads.
Nothing here runs a notebook.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import nbformat

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import code_digest, read_json, sha256, write_json
from r2ec_lib.workflow.folder import LIBRARY, READS, ROOT, STAGES, RunFolder
from r2ec_lib.workflow.recipes import PLACES, is_path

PACKAGES = (
    *("torch", "transformers", "trl", "peft", "tokenizers", "accelerate"),
    *("numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "statsmodels"),
    *(name for name in ("bitsandbytes", "deepspeed", "vllm") if any(metadata.distributions(name=name))),
)
UNRELATED = ("workflow/__init__.py", "workflow/folder.py", "workflow/recipes.py")
"""Modules that every notebook imports and no result depends on: they find places, and refuse settings."""


def ingredients(notebook: Path, values: Mapping[str, Any], read: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides what `notebook` computes, as plain JSON: equal ingredients, equal results.

    values: the notebook's own parameters; paths absolute, but for defaults, which are relative to the project. read:
    keys of the stages that it reads, see `read_by`.
    Formatting and comments of library modules do not count; local inputs, the results of other runs that a key names
    among them, count by path and content.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    source = [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in cells]
    modules = imported([cell.source for cell in cells if cell.cell_type == "code"])
    names = {path.relative_to(LIBRARY).as_posix(): path for path in modules}
    library = {name: _module(path) for name, path in names.items() if name not in UNRELATED}
    return {
        "notebook": key(source),
        "parameters": {key: value for key, value in values.items() if key not in PLACES},
        "library": library | {path.relative_to(LIBRARY).as_posix(): _digest(path) for path in _beside(modules)},
        "inputs": _inputs(values),
        "packages": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "read": dict(read),
    }


def read_by(stage: str, run: RunFolder, keys: Mapping[str, str]) -> dict[str, str]:
    """The key of each stage that `stage` reads in `run`: as in `keys`, otherwise that with which it finished there."""
    before = {name: keys.get(name) or (finished(run, name) or {}).get("key") for name in _owners(stage)}
    return {name: key for name, key in before.items() if key}


def key(parts: Any) -> str:
    """Ingredients, or a part of them, as one short name."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In words, the first ingredient in which two stages differ: "parameters changed: num_generations"."""
    for part in ("parameters", "inputs", "library", "packages"):
        if changed := [k for k in sorted({*old[part], *new[part]}) if old[part].get(k) != new[part].get(k)]:
            return f"{part} changed: {', '.join(changed[:3])}{', …' if len(changed) > 3 else ''}"
    return "the notebook changed" if old["notebook"] != new["notebook"] else "an earlier stage changed"


def imported(code: Sequence[str]) -> list[Path]:
    """The modules of the library that the cells import, with everything those import, sorted by path."""
    finder = ModuleFinder(path=[str(LIBRARY.parent)])
    for cell in code:
        lines = [line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!"))]
        finder.scan_code(compile("\n".join(lines), "cell", "exec"), finder.add_module("__main__"))
    files = [getattr(module, "__file__", None) for module in finder.modules.values()]
    return sorted(path for file in files if file and (path := Path(file)).is_relative_to(LIBRARY))


def state(run: RunFolder, stage: str) -> dict[str, Any] | None:
    """What the state file of `stage` says (key, ingredients, finished, seconds, peak_memory_gb, outputs), or None."""
    path = run.state(stage)
    return read_json(path) if path.is_file() else None


def finished(run: RunFolder, stage: str) -> dict[str, Any] | None:
    """The same where `stage` has finished, or None."""
    last = state(run, stage)
    return last if last and last["finished"] else None


def is_done(run: RunFolder, stage: str, wanted: str) -> bool:
    """Whether `stage` finished with the key `wanted` and everything it wrote is still there."""
    last = finished(run, stage)
    return bool(last and last["key"] == wanted and _present(run, last["outputs"]))


def finished_elsewhere(run: RunFolder, stage: str, wanted: str) -> RunFolder | None:
    """Another run beside `run` in which `stage` finished with the key `wanted` and everything is still there."""
    for path in sorted(run.path.parent.glob(f"*/{run.state(stage).relative_to(run.path)}")):
        other = RunFolder(path.parents[1])
        if other.path != run.path and is_done(other, stage, wanted):
            return other
    return None


def copy_from(other: RunFolder, run: RunFolder, stage: str) -> dict[str, float]:
    """Copies what `stage` wrote in `other` into `run`, which `begin` has made ready; returns what it had cost.

    The state comes last: without it, a copy that was broken off is no finished stage. Raises DataError where the
    other run began the stage anew meanwhile.
    """
    last = read_json(other.state(stage))
    for path in last["outputs"]:
        (run.path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(other.path / path, run.path / path)
    if not is_done(other, stage, last["key"]):
        raise DataError(f"{other.path} was changed while {stage} was copied from it. Start again.")
    write_json(last, run.state(stage))
    return {name: last[name] for name in ("seconds", "peak_memory_gb")}


def begin(run: RunFolder, stage: str, parts: Mapping[str, Any]) -> bool:
    """Makes the run ready for `stage` and notes that it began; returns whether it continues an interrupted one.

    With the ingredients of an interrupted attempt the stage's folders stay, so that its notebook can go on from what
    it saved. Otherwise they are removed, and with them what other stages made of them, directly or not.
    """
    last = state(run, stage)
    continues = bool(last and not last["finished"] and last["key"] == key(parts))
    if not continues:
        for old in outdated(stage):
            for folder in STAGES[old]:
                if (run.path / folder).exists():
                    shutil.rmtree(run.path / folder)
            run.state(old).unlink(missing_ok=True)
            run.notebook(old).unlink(missing_ok=True)
    write_json({"key": key(parts), "ingredients": parts, "finished": False}, run.state(stage))
    return continues


def finish(
    run: RunFolder, stage: str, parts: Mapping[str, Any], values: Mapping[str, Any], cost: Mapping[str, float]
) -> str:
    """Notes that `stage` is done, what it wrote and what it cost; returns its key.

    A stage may fetch its own inputs (a download into `data_dir`): files that appeared during the stage are noted as
    they are now, files that it started from as they were then.
    """
    now = _inputs(values)
    parts = {**parts, "inputs": {path: parts["inputs"].get(path, digest) for path, digest in now.items()}}
    written = [path for folder in STAGES[stage] for path in _files(run.path / folder)] + [run.notebook(stage)]
    outputs = {path.relative_to(run.path).as_posix(): path.stat().st_size for path in written}
    done = {"key": key(parts), "ingredients": parts, "finished": True, **cost, "outputs": outputs}
    write_json(done, run.state(stage))
    return key(parts)


def outdated(stage: str) -> list[str]:
    """The stages whose results go when `stage` begins anew: those in the same folder, and all that read them."""
    stale = [name for name, folders in STAGES.items() if {*folders} & {*STAGES[stage]}]
    for name in STAGES:  # a stage stands after those that it reads
        if name not in stale and {*stale} & {*_owners(name)}:
            stale.append(name)
    return stale


def _owners(stage: str) -> list[str]:
    """The stages that leave what `stage` reads."""
    return [name for name, folders in STAGES.items() if {*folders} & {*READS.get(stage, ())}]


def _module(path: Path) -> str:
    """`code_digest`; a module is read again only when its file has changed."""
    return _read_module(path, path.stat().st_mtime_ns)


@cache
def _read_module(path: Path, changed: int) -> str:
    return code_digest(path)


def _inputs(values: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each local file that `values` name: in paths, or as the results of other runs.

    Other runs are named by keys that end in `_runs`; their folders lie beside this run's own. Of a `data_dir` or
    `texts_dir`, which may hold many categories, the files of this one count.
    """
    given = {key: value for key, value in values.items() if value and key not in PLACES}
    named = [(key, Path(value)) for key, value in given.items() if is_path(key) or key == "backbone"]
    named = [(key, path) for key, path in named if key != "backbone" or path.is_absolute()]  # else a name
    others = [
        RunFolder(Path(values["run_dir"]).parent / name)
        for key in given
        if key.endswith("_runs")
        for name in given[key]
    ]
    named += [("", path) for run in others for path in (run.rankings, run.metrics("evaluation"))]  # what a study reads
    category = values.get("category", "")
    files = {
        str(path / file.relative_to(ROOT / path)): file
        for key, path in named
        for file in _files(ROOT / path)
        if key not in ("data_dir", "texts_dir") or category in file.name
    }
    return {name: _digest(file) for name, file in files.items()}


def _beside(modules: Sequence[Path]) -> list[Path]:
    """Tables and templates in the folders of these modules, which they may read. A report's own decide no result."""
    folders = {path.parent for path in modules} - {LIBRARY / "workflow"}
    return sorted(path for folder in folders for kind in ("*.csv", "templates/*") for path in folder.glob(kind))


def _digest(file: Path) -> str:
    """SHA-256 of a file, read again only when it has changed."""
    return _sha256(file, file.stat().st_size, file.stat().st_mtime_ns)


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """Read once for as long as size and time of change stay, since a stage asks for its inputs several times."""
    return sha256(file)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _present(run: RunFolder, outputs: Mapping[str, int]) -> bool:
    files = [(run.path / path, size) for path, size in outputs.items()]
    return all(file.is_file() and file.stat().st_size == size for file, size in files)
