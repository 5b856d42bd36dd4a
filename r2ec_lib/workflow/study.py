"""Studies: many variants of one recipe over several seeds, each an ordinary run, several at a time; then their page.

A study file names a base recipe and lists rows, each with the keys in which it differs. This module reads such a file,
starts `r2ec run` for every row and seed that is not finished, and has notebook 11 write the page. What the rows show
is compared in `evaluation.studies`.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from r2ec_lib.data.schema import whole_number
from r2ec_lib.data.storage import YamlLoader, read_json
from r2ec_lib.workflow import kernels, recipes, runner
from r2ec_lib.workflow.folder import NOTEBOOKS, RUNS, RunError, RunFolder, shown
from r2ec_lib.workflow.recipes import Recipe, RecipeError, did_you_mean

ROW, PAGE = "10_variant", "11_ablations"
"""The stage that measures a row, and the one that compares them."""
MEMORY_GB = 3.0
"""Free memory without which no run is started beside another one, until a finished run has shown what it takes."""


class Row(BaseModel):
    """One row of a study.

    Attributes:
        name: what the row is called.
        set: the keys in which it differs from the study's base, with their values.
        against: the row that it is compared with; the study's first where empty. Both answer the same questions.
        group: rows of one group share a figure; a row without one has none.
        claim: what the paper says, in words.
        expects: "lower" or "higher" for each measure about which the paper makes a claim.
        copied: the row of the paper's tables (`published.csv`) that stands beside it.
        grows: the key of `set` that is this row's size; rows of one key and the study's first make one curve.
        seeds: seeds of this row; the study's where None.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    set: dict[str, Any] = Field(default_factory=dict)
    against: str = ""
    group: str = ""
    claim: str = ""
    expects: dict[Literal["ndcg@20", "hit@5", "tokens", "learning"], Literal["lower", "higher"]] = {}
    copied: str = ""
    grows: str = ""
    seeds: list[int] | None = None

    @property
    def slug(self) -> str:
        """The name as it stands in names of runs."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.casefold()).strip("-")


class Study(BaseModel):
    """A study file: the base recipe, the keys that all rows set, seeds, and rows."""

    model_config = ConfigDict(extra="forbid")

    name: str
    base: str
    seeds: list[int] = Field(min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    rows: list[Row] = Field(min_length=1)

    def run_name(self, row: Row, seed: int) -> str:
        return f"{self.name}-{row.slug}-seed{seed}"

    def runs(self, names: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[tuple[Row, int]]:
        """Row and seed of each run, row by row: all rows or those called `names`; `seeds` where given.

        The rows that they are compared with come along.
        """
        wanted = set(names) | {self.opponent(row) for row in self.rows if row.name in names}
        chosen = [row for row in self.rows if not names or row.name in wanted]
        return [(row, seed) for row in chosen for seed in seeds or row.seeds or self.seeds]

    def opponent(self, row: Row) -> str:
        """Name of the row that `row` is compared with; its own where it is compared with none."""
        return row.against or self.rows[0].name

    def sizes(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The curves among the rows called `names`: key -> its rows, the study's first in front."""
        curves: dict[str, list[str]] = {}
        for row in (row for row in self.rows if row.grows and row.name in names):
            curves.setdefault(row.grows, [self.rows[0].name]).append(row.name)
        return curves

    def by_run(self, names: Iterable[str]) -> dict[str, tuple[Row, int]]:
        """Row and seed of the runs called `names`, whatever their seeds."""
        rows = {row.slug: row for row in self.rows}
        parts = {name: re.fullmatch(rf"{re.escape(self.name)}-(.+)-seed(\d+)", name) for name in names}
        return {name: (rows[part[1]], int(part[2])) for name, part in parts.items() if part and part[1] in rows}


def load(path: Path) -> Study:
    """The study in the file `path`. Raises RecipeError with the file, the place and what was expected."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such study.")
    try:
        study = Study.model_validate(yaml.load(path.read_text(encoding="utf-8"), YamlLoader))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, one['loc'])) or 'study'}: {one['msg']}." for one in error.errors()]
        raise RecipeError("\n".join(lines)) from error
    names, slugs = [row.name for row in study.rows], [row.slug for row in study.rows]
    if not all(slugs):
        raise RecipeError(f"{path}: a row is called {names[slugs.index('')]!r}; a name needs a letter a–z or a digit.")
    if twice := [name for name, slug in zip(names, slugs, strict=True) if slugs.count(slug) > 1]:
        raise RecipeError(f"{path}: two rows are called {twice[0]!r}, or have names that differ in signs alone.")
    for row in study.rows:
        if study.opponent(row) not in names:
            raise RecipeError(f"{path}: {row.name}: against names {row.against!r}, and no row is called so.")
        if "seed" in study.set | row.set:
            raise RecipeError(f"{path}: {row.name}: set names seed; name it under seeds.")
        if row.grows and row.grows not in row.set:
            raise RecipeError(f"{path}: {row.name}: grows names {row.grows!r}, which the row does not set.")
    return study


def execute(
    path: Path,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    jobs: int = 0,
    overrides: Sequence[str] = (),
    name: str | None = None,
    runs: Path = RUNS,
) -> Path:
    """Runs what is not finished of the study in `path` and returns its page.

    A run is `r2ec run` in a process of its own, whose output goes into a log beside its folder. One that fails is
    told, and the others go on. The page also has the study's other runs that are up to date, whatever their rows and
    seeds.

    Args:
        rows: names of the rows to run, with those that they are compared with; all where empty.
        seeds: in place of the file's.
        jobs: runs at a time, as far as memory allows; one for each core where 0.
        overrides: `key=value` for all rows.
        name: of the study, in place of the file's.

    Raises:
        RecipeError: a row that does not exist, one whose keys are wrong, or an override of what a row sets; nothing
            was run.
        RunError: runs have failed; the page shows the others.
    """
    study = load(path)
    whole_number(jobs, "jobs", 0)
    study.name = name or study.name
    called = [row.name for row in study.rows]
    if unknown := [row for row in rows if row not in called]:
        raise RecipeError(f"{path}: no row is called {unknown[0]!r}.{did_you_mean(unknown[0], called)}")
    if any(text.partition("=")[0].strip() == "seed" for text in overrides):
        raise RecipeError("-p seed: a study names its seeds with --seeds.")
    wanted = study.runs(rows, seeds)
    varied = {key: row.name for row, _ in wanted for key in row.set}
    for key in (text.partition("=")[0].strip() for text in overrides):
        if key in varied:
            raise RecipeError(f"-p {key}: the row {varied[key]!r} sets it, and would be another under its name.")
    commands, plan = {}, {}
    declared, base = recipes.declared_in(NOTEBOOKS), path.parent / study.base
    for row, seed in wanted:
        run, chosen = study.run_name(row, seed), [*_settings(study, row, seed), *overrides]
        try:
            plan[run] = recipes.load(base, declared, chosen, run)
        except RecipeError as error:
            raise RecipeError(f"{path}: {row.name}: {error}") from None
        if ROW not in (plan[run].stages or ()):
            raise RecipeError(f"{path}: {row.name}: the stages lack {ROW}, whose figures the page compares. Add it.")
        commands[run] = [str(base), "--name", run, *(part for text in chosen for part in ("-p", text))]
    table = _Table(study, runs)
    for run in [run for run, recipe in plan.items() if runner.is_current(recipe, declared, runs=runs)]:
        table.add(run)
        del commands[run]
    others = []
    for run, (row, seed) in study.by_run(sorted(one.name for one in runs.glob("*"))).items():
        with suppress(RecipeError):  # of a row that nobody asked for
            recipe = recipes.load(base, declared, [*_settings(study, row, seed), *overrides], run)
            if run not in plan and runner.is_current(recipe, declared, runs=runs):
                others.append(run)
    failed = _run_all(commands, jobs or kernels.cores(), runs, table)
    places = {run: (called.index(row.name), seed) for run, (row, seed) in study.by_run([*plan, *others]).items()}
    finished = sorted((run for run in places if run not in failed), key=lambda run: places[run])
    if not failed:
        return _page(study, path, finished, runs)
    logs = ", ".join(shown(_log(runs, run)) for run in failed)
    told = f"{len(failed)} of {len(plan)} runs failed ({logs})"
    main = {study.run_name(study.rows[0], seed) for seed in seeds or study.rows[0].seeds or study.seeds}
    if main <= set(failed):
        raise RunError(f"{told}, all of the first row, so there is nothing to compare with.")
    page = _page(study, path, finished, runs)
    raise RunError(f"{told}; the page shows the others: {shown(page)}.")


def _settings(study: Study, row: Row, seed: int) -> list[str]:
    """What a run sets over the base, as `key=value`; texts as they are, all else as JSON, which is YAML."""
    values = {**study.set, **row.set, "seed": seed}
    texts = {key: one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for key, one in values.items()}
    return [f"{key}={text}" for key, text in texts.items()]


def _run_all(commands: Mapping[str, Sequence[str]], jobs: int, runs: Path, table: "_Table") -> list[str]:
    """Runs all `commands`, at most `jobs` at a time and as memory allows; returns the names of those that failed."""
    waiting, failed = list(commands), []
    working: dict[str, subprocess.Popen] = {}
    try:
        while waiting or working:
            if waiting and len(working) < jobs and (not working or _free_gb(working, table) > table.memory_gb):
                run = waiting.pop(0)
                _log(runs, run).parent.mkdir(parents=True, exist_ok=True)
                with _log(runs, run).open("a", encoding="utf-8") as log:
                    command = [sys.executable, "-m", "r2ec_lib.workflow.cli", "run", "--shared", *commands[run]]
                    working[run] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            for run in [run for run, process in working.items() if process.poll() is not None]:
                if working.pop(run).returncode:
                    failed.append(run)
                    print(f"{run} failed; see {shown(_log(runs, run))}", flush=True)
                else:
                    table.add(run)
            time.sleep(0.2)
    finally:
        for process in working.values():
            process.terminate()
        for process in working.values():
            process.wait()
    return failed


def _free_gb(working: Mapping[str, subprocess.Popen], table: "_Table") -> float:
    """Free memory less what the working runs may yet take."""
    reserved = 0.0
    for run in working.values():
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            process = psutil.Process(run.pid)
            taken = kernels.memory_bytes([process, *process.children(recursive=True)])
            reserved += max(0.0, table.memory_gb - taken / 2**30)
    return psutil.virtual_memory().available / 2**30 - reserved


def _log(runs: Path, run: str) -> Path:
    return runs / ".logs" / f"{run}.txt"


class _Table:
    """The table that grows as runs finish, on standard output."""

    def __init__(self, study: Study, runs: Path):
        self.study, self.runs = study, runs
        self.memory_gb, self.begun = MEMORY_GB, False

    def add(self, name: str) -> None:
        """One line for the finished run `name`."""
        run, [(row, seed)] = RunFolder(self.runs / name), self.study.by_run([name]).values()
        result, cost = read_json(run.metrics("evaluation")), read_json(run.provenance)["stages"].values()
        self.memory_gb = max([one["peak_memory_gb"] for one in cost] + [self.memory_gb * self.begun])
        minutes = sum(one["seconds"] for one in cost if "copied_from" not in one) / 60
        if not self.begun:
            print(f"{'row':<36} seed   Hit@5  NDCG@20  tokens  minutes")
        self.begun = True
        figures = result["models"]["r2ec"]
        print(
            f"{row.name:<36} {seed:>4}  {figures['hit@5']:.4f}   {figures['ndcg@20']:.4f}  {result['tokens']:>6.1f}"
            f"  {minutes:>7.1f}",
            flush=True,
        )


def _page(study: Study, path: Path, finished: Sequence[str], runs: Path) -> Path:
    """Has notebook 11 compare the `finished` runs; returns the index of its report."""
    values = {"study_path": str(path.resolve()), "study_runs": list(finished)}
    return runner.execute(Recipe(study.name, values, [PAGE]), runs=runs)
