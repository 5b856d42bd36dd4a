"""Runs the notebooks of a recipe in order, each in a kernel of its own, and has their report rendered.

`recipes` says what may be chosen, `stages` what has to run again, `kernels` executes, `report` shows. What is left to
this module: one process at a time in a run, settings checked before long work, and a record of what ran where.
"""

import errno
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r2ec_lib.data.storage import alone, read_json, write_json, write_text
from r2ec_lib.workflow import kernels, provenance, recipes, report, stages
from r2ec_lib.workflow.folder import NOTEBOOKS, ON_REQUEST, RUNS, STAGES, RunError, RunFolder, shown
from r2ec_lib.workflow.recipes import Parameter, Recipe, RecipeError, did_you_mean, no_stage

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Of a disk that takes no more: full, beyond a quota or a limit on the size of files, or mounted read-only."""
GOES_ON = "would go on"


@dataclass(frozen=True)
class Stage:
    """One notebook of a recipe, ready to run."""

    name: str
    source: Path
    values: dict[str, Any]  # all its parameters, and the threads of its kernel
    given: dict[str, Any]  # those that Papermill sets: the recipe's, and the run's folder


def execute(recipe: Recipe, fresh: bool = False, runs: Path = RUNS, *, shared: bool = False) -> Path:
    """Runs the stages of `recipe` that are not up to date in `runs/<name>`, renders the report, returns its index.

    Args:
        fresh: remove the run's folder first.
        shared: copy a stage that another run in `runs` has finished with the same ingredients, costs included.

    Raises:
        RecipeError: a file that is not there, a notebook refuses its settings, or a stage that stays as it is has
            other values; nothing was run or removed.
        RunError: a notebook failed, and the report shows what there is; the disk takes no more; or another process
            works in the same folder.
    """
    run = RunFolder(runs / recipe.name)
    busy = RunError(
        f'The run "{recipe.name}" is being worked on by another process. Wait until it is done, or choose another '
        "--name."
    )
    with _full_disk_named(run, fresh), alone(runs / ".locks" / recipe.name, busy):
        if run.path.exists() and any(run.path.iterdir()) and not run.exists():
            raise RunError(
                f"{shown(run.path)} is no run (it holds neither recipe.yaml nor .stages). Choose another --name."
            )
        declared = recipes.declared_in(NOTEBOOKS)
        variables = _variables(recipe, declared)
        plan = _plan(recipe, run, declared, variables)
        forecast = _forecast(run, plan, shared)
        whole = _whole(recipe, run, forecast, declared, fresh)
        idle = all(reason is None for _, reason in forecast)
        begun = run.states.is_dir()  # otherwise the first one sees its settings at once, and nothing can be lost
        anew = [stage for stage, reason in forecast if reason and reason != GOES_ON]  # one that goes on was checked
        _check_settings(plan if fresh else anew[not begun :], variables)
        if fresh and run.path.exists():
            shutil.rmtree(run.path)
        write_text(recipes.as_yaml(whole, declared, stage_order(whole, declared)), run.recipe)
        known = read_json(run.provenance) if run.provenance.is_file() and idle else None
        facts, keys = known or provenance.record(whole, run, variables), dict[str, str]()
        for stage in plan:
            parts = stages.ingredients(stage.source, stage.values, stages.read_by(stage.name, run, keys))
            keys[stage.name] = wanted = stages.key(parts)
            if stages.is_done(run, stage.name, wanted):
                print(f"{stage.name}: up to date", flush=True)
                continue
            continues = stages.begin(run, stage.name, parts)
            facts["stages"] = {name: cost for name, cost in facts["stages"].items() if stages.finished(run, name)}
            write_json(facts, run.provenance)
            cost: dict[str, Any]
            if shared and (other := stages.finished_elsewhere(run, stage.name, wanted)):
                cost = {**stages.copy_from(other, run, stage.name), "copied_from": other.path.name}
                done = read_json(run.state(stage.name))
                cost |= {name: done[name] for name in ("commit", "threads") if name in done}  # as it was computed
                told = f"copied from {shown(other.path)}"
            else:
                print(f"{stage.name}: {'goes on where it was interrupted' if continues else 'starts'}", flush=True)
                cost = {**_work(run, stage, variables, fresh), **{name: facts[name] for name in ("commit", "threads")}}
                keys[stage.name] = stages.finish(run, stage.name, parts, stage.values, cost)
                told = f"done in {cost['seconds']:.0f} s"
            print(f"{stage.name}: {told}", flush=True)
            facts["stages"][stage.name] = {**cost, "finished": provenance.now()}
            write_json(facts, run.provenance)
        return report.render(run)


def _work(run: RunFolder, stage: Stage, variables: Mapping[str, str], fresh: bool) -> dict[str, float]:
    """Executes the notebook of a stage; returns what it cost. A RunError says where the error can be read."""
    executed = run.notebook(stage.name)
    try:
        return kernels.run_notebook(stage.source, executed, stage.given, sys.stdout, variables)
    except RunError as error:
        without = ", without --fresh," if fresh else ""
        raise RunError(
            f"{error}\nThe whole error is in {shown(executed)}, what is done so far in {shown(report.render(run))}. "
            f"The same command{without} goes on from this stage."
        ) from None


def check(recipe: Recipe, runs: Path = RUNS, *, shared: bool = False) -> None:
    """Prints which stages of `recipe` would run, and why, once the notebooks have seen their settings.

    Changes nothing. Raises RecipeError as `execute`.
    """
    run, declared = RunFolder(runs / recipe.name), recipes.declared_in(NOTEBOOKS)
    variables = _variables(recipe, declared)
    plan = _plan(recipe, run, declared, variables)
    forecast = _forecast(run, plan, shared)
    _whole(recipe, run, forecast, declared)
    print(_check_settings(plan, variables), end="")
    print(f"The recipe is right. Run folder: {shown(run.path)}")
    for stage, reason in forecast:
        print(f"{stage.name}: {reason or ('up to date, or copied' if shared else 'up to date')}")


def is_current(recipe: Recipe, declared: Mapping[str, Mapping[str, Parameter]], runs: Path = RUNS) -> bool:
    """Whether every stage of `recipe` is up to date in `runs/<name>`; `declared` are the keys of the notebooks."""
    run = RunFolder(runs / recipe.name)
    plan = _plan(recipe, run, declared, _variables(recipe, declared))
    return not any(reason for _, reason in _forecast(run, plan))


def stage_order(recipe: Recipe, declared: Mapping[str, Any]) -> list[str]:
    """The stages of `recipe` in their usual order."""
    usual = [stage for stage in STAGES if stage not in ON_REQUEST]
    order = [stage for stage in STAGES if stage in (recipe.stages or usual)]
    if missing := [stage for stage in (*order, *(recipe.stages or ())) if stage not in declared or stage not in order]:
        raise RunError(no_stage(missing[0], [stage for stage in STAGES if stage in declared]))
    return order


def existing_run(name: str) -> RunFolder:
    """The run in the folder `name`, or of this name among the project's. Raises RunError where there is none."""
    for run in (RunFolder(Path(name).resolve()), RunFolder(RUNS / name)):  # "." has a name, too
        if run.exists():
            return run
    names = sorted(path.name for path in RUNS.glob("*") if RunFolder(path).exists())
    raise RunError(f"{name}: no such run. There are: {', '.join(names) or 'none yet'}.{did_you_mean(name, names)}")


def _plan(
    recipe: Recipe, run: RunFolder, declared: Mapping[str, Mapping[str, Parameter]], variables: Mapping[str, str]
) -> list[Stage]:
    """The stages of `recipe`.

    Raises RecipeError for files that are not there, since the last stage may read them, and for what lies in the run's
    own folder, since a stage that begins anew removes what it finds there.
    """
    plan = []
    for name in stage_order(recipe, declared):
        defaults = {key: one.default for key, one in declared[name].items()}
        given = recipes.given(recipe, declared[name], run.path)
        values = {**defaults, **given, "threads": int(variables["OMP_NUM_THREADS"])}  # which digits depend on
        plan.append(Stage(name, NOTEBOOKS / f"{name}.ipynb", values, given))
    folder, chosen = run.path.resolve(), {key: one for key, one in recipe.values.items() if key not in recipes.PLACES}
    own = [key for key, one in chosen.items() if isinstance(one, str) and Path(one).is_relative_to(folder)]
    if own:
        told = "A stage that begins anew removes what it finds there: copy it elsewhere, and name the copy."
        raise RecipeError("\n".join([*(f"{key}: {chosen[key]} lies in this run's own folder." for key in own), told]))
    files = {key: file for stage in plan for key, file in stage.given.items() if recipes.is_file(key) and file}
    if missing := [f"{key}: {file} does not exist." for key, file in files.items() if not Path(file).exists()]:
        raise RecipeError("\n".join([*missing, "Relative paths are taken from the folder in which r2ec is called."]))
    return plan


def _forecast(run: RunFolder, plan: Sequence[Stage], shared: bool = False) -> list[tuple[Stage, str | None]]:
    """Each stage with why it would run, in words; None where it is up to date, "" where `shared` would copy it."""
    reasons, keys = list[str | None](), dict[str, str]()
    for stage in plan:
        parts = stages.ingredients(stage.source, stage.values, stages.read_by(stage.name, run, keys))
        keys[stage.name] = wanted = stages.key(parts)
        last = stages.state(run, stage.name)
        if stages.is_done(run, stage.name, wanted):
            reasons.append(None)
        elif shared and stages.finished_elsewhere(run, stage.name, wanted):
            reasons.append("")
        elif last is None:
            reasons.append("would run")
        elif last["key"] != wanted:
            reasons.append(f"would run ({stages.difference(last['ingredients'], parts)})")
        else:
            reasons.append("would run (its outputs are gone)" if last["finished"] else GOES_ON)
    return list(zip(plan, reasons, strict=True))


def _whole(
    recipe: Recipe,
    run: RunFolder,
    forecast: Sequence[tuple[Stage, str | None]],
    declared: Mapping[str, Mapping[str, Parameter]],
    fresh: bool = False,
) -> Recipe:
    """`recipe` with the run's finished stages that are not planned and stay as they are, and with their values.

    A key has one value throughout a run: raises RecipeError where a planned stage has another one. `threads`, which
    only the benchmark declares, may differ; provenance has those of each stage.
    """
    planned = {key: value for stage, _ in forecast for key, value in stage.values.items()}
    order, values, problems = [stage.name for stage, _ in forecast], recipe.values, dict[str, str]()
    begun = [stage.name for stage, reason in forecast if reason is not None]
    gone = {*STAGES} if fresh else {*order}.union(*map(stages.outdated, begun))
    for name in STAGES:
        if name not in gone and (last := stages.finished(run, name)):
            kept = {key: one for key, one in last["ingredients"]["parameters"].items() if key in declared[name]}
            kept.pop("threads", None)
            order, values = [*order, name], values | kept
            for key in [key for key, one in kept.items() if planned.get(key, one) != one]:
                told = f"{key} is {kept[key]!r} in {name}, which has finished, and {planned[key]!r} here."
                problems.setdefault(key, told)
    if problems:
        told = "Keep the value that the run has, run those stages again as well, or choose another --name."
        raise RecipeError("\n".join([f"{shown(run.path)} is the run of another recipe:", *problems.values(), told]))
    return replace(recipe, values=values, stages=order)


def _check_settings(plan: Sequence[Stage], variables: Mapping[str, str]) -> str:
    """Has notebooks look at their settings, before anything runs that takes long; returns what they say of them."""
    try:
        return "".join(kernels.check_settings(stage.source, stage.given, variables) for stage in plan)
    except RunError as error:
        raise RecipeError(str(error)) from None


def _variables(recipe: Recipe, declared: Mapping[str, Mapping[str, Parameter]]) -> dict[str, str]:
    """The environment of the run's kernels, the same for all: one of them loads the model that another has trained."""
    defaults = {key: parameter.default for keys in declared.values() for key, parameter in keys.items()}
    return kernels.environment({**defaults, **recipe.values})


@contextmanager
def _full_disk_named(run: RunFolder, fresh: bool) -> Iterator[None]:
    """Turns the error of a disk that takes no more into a RunError that says what stopped and how it goes on."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        begun = [name for name in STAGES if (last := stages.state(run, name)) and not last["finished"]]
        stopped = f"the run {shown(run.path)} stopped" + (f" in stage {begun[0]}" if begun else "")
        without = ", without --fresh," if fresh else ""
        raise RunError(
            f"{error}: {stopped}. Make room or lift the limit; then the same command{without} goes on."
        ) from error
