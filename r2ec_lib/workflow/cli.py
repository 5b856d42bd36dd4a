"""The command line: runs of recipes and their reports; a trained model's recommendations and its items.

`r2ec run RECIPE` executes the notebooks of a recipe and renders their report. What a model is asked for is the
business of `serving`, which is loaded for these commands alone, as what runs notebooks is for the others.
"""

import argparse
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml

from r2ec_lib.data.readers import LOG_COLUMNS
from r2ec_lib.data.schema import DataError
from r2ec_lib.workflow import recipes
from r2ec_lib.workflow.folder import NOTEBOOKS, RUNS, RunError, Stopped, shown
from r2ec_lib.workflow.recipes import RecipeError

STOPS = {
    signal.SIGINT: "Interrupted",
    signal.SIGTERM: "Stopped by SIGTERM",
    signal.SIGHUP: "The terminal was closed",
    signal.SIGPIPE: "Standard output was closed",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit codes: 0 done, 1 the run failed, 2 the recipe is wrong, 128 + number of a signal."""
    options = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore", module=r"nbformat|papermill|traitlets|zmq")
    for name in ("papermill", "traitlets", "asyncio"):  # they repeat what is reported below
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or file of ASCII has no ² and no é
    try:
        with _stopped_by_signals():
            _run(options)
            sys.stdout.flush()
        return 0
    except RecipeError as error:
        return _ended(error, 2)
    except (RunError, DataError) as error:
        return _ended(error, 1)
    except Stopped as stop:
        return _stopped(stop.number, options)
    except BrokenPipeError:
        return _stopped(signal.SIGPIPE, options)
    except OSError as error:  # a disk that is full, a folder that may not be written
        return _ended(error, 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="r2ec", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute the notebooks of a recipe and render the report")
    way = run.add_mutually_exclusive_group()
    way.add_argument("--fresh", action="store_true", help="remove the run's folder first")
    way.add_argument("--check", action="store_true", help="only check the recipe and say which stages would run")
    run.add_argument(
        "--shared", action="store_true", help="copy stages that another run finished with the same settings"
    )
    show = commands.add_parser("recipe", help="print a recipe with its bases merged, for papermill --parameters_yaml")
    show.add_argument("--stage", help="only what this notebook takes, such as 02 or 02_training")
    for command in (run, show):
        command.add_argument("recipe", type=Path, help="a YAML file, such as params/quickstart.yaml")
        command.add_argument("-p", metavar="KEY=VALUE", action="append", default=[], help="overrides a key")
        command.add_argument("--name", help="name of the run's folder (default: the recipe's)")
    rows = commands.add_parser("study", help="run the variants that a study lists, over seeds, and compare them")
    rows.add_argument("study", type=Path, help="a YAML file, such as params/ablations/study.yaml")
    rows.add_argument("--row", metavar="NAME", action="append", default=[], help="only this row (may be repeated)")
    rows.add_argument("--seeds", type=int, nargs="+", default=[], metavar="N", help="in place of the study's")
    rows.add_argument("--jobs", type=int, default=0, metavar="N", help="runs at a time (default: one for each core)")
    rows.add_argument("--name", help="begins the names of the runs' folders (default: the study's)")
    rows.add_argument("-p", metavar="KEY=VALUE", action="append", default=[], help="overrides a key in all rows")
    again = commands.add_parser("report", help="render the report of a run again")
    again.add_argument("run", help="name or folder of a run")
    lists = commands.add_parser("recommend", help="write the recommendations of a model for every shopper of a log")
    items = commands.add_parser("items", help="add, replace and remove items of a model")
    for command in (lists, items):
        command.add_argument("model", type=Path, help="folder of a model, such as runs/quickstart/model")
    lists.add_argument("interactions", type=Path, help="CSV, Parquet or JSON lines")
    lists.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write: .csv or .parquet")
    lists.add_argument("--k", type=int, default=10, help="length of a list (default: 10)")
    lists.add_argument("--users", type=Path, metavar="FILE", help="only for the shoppers in this file")
    lists.add_argument("--guardrails", type=Path, metavar="FILE", help="rules, as in params/guardrails/example.yaml")
    length = lists.add_mutually_exclusive_group()
    length.add_argument("--max-new-tokens", type=int, metavar="N", help="longest reasoning (default: as in training)")
    length.add_argument(
        "--no-reasoning",
        dest="max_new_tokens",
        action="store_const",
        const=0,
        help="answer at once, without one",
    )
    lists.add_argument("--vllm", action="store_true", help="write reasonings with vLLM (install the extra `vllm`)")
    lists.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N groups of shoppers")
    items.add_argument("items", type=Path, help="CSV, Parquet or JSON lines")
    items.add_argument("--remove", action="store_true", help="remove the items of the file, whose ids are enough")
    for command in (lists, items):
        command.add_argument("-p", metavar="KEY=VALUE", action="append", default=[], help="column_… or timestamp_unit")
    return parser


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N such as 3/16, from 1/16 to 16/16; found {text!r}")
    return int(number), int(count)


def _run(options: argparse.Namespace) -> None:
    if options.command in ("recommend", "items"):
        return _serve(options)
    from r2ec_lib.workflow import report, runner, study  # what runs and shows notebooks takes seconds to load

    if options.command == "report":
        return print(f"Report: {shown(report.render(runner.existing_run(options.run)))}")
    if options.command == "study":
        how = (options.row, options.seeds, options.jobs, options.p, options.name)
        return print(f"Study: {shown(study.execute(options.study, *how))}")
    declared = recipes.declared_in(NOTEBOOKS)
    recipe = recipes.load(options.recipe, declared, options.p, options.name)
    if options.command == "recipe" and options.stage is None:
        print(recipes.as_yaml(recipe, declared, runner.stage_order(recipe, declared)), end="")
    elif options.command == "recipe":
        print(resolved(recipe, declared, options.stage), end="")
    elif options.check:
        runner.check(recipe, shared=options.shared)
    else:
        print(f"Report: {shown(runner.execute(recipe, fresh=options.fresh, shared=options.shared))}")


def _serve(options: argparse.Namespace) -> None:
    from r2ec_lib.serving import catalogue, lists  # a model's libraries take seconds to load

    columns = dict(recipes.override(text, {}) for text in options.p)
    keys = [f"column_{name}" for name in LOG_COLUMNS] + ["timestamp_unit"]  # those of notebook 01
    if unknown := [key for key in columns if key not in keys]:
        hint = recipes.did_you_mean(unknown[0], keys)
        raise RecipeError(f"-p {unknown[0]}: unknown key; expected {', '.join(keys)}.{hint}")
    timestamp_unit = columns.pop("timestamp_unit", "iso")
    columns = {key.removeprefix("column_"): name for key, name in columns.items()}
    try:
        if options.command == "items":
            return catalogue.update(options.model, options.items, columns, remove=options.remove)
        lists.recommend(
            options.model,
            options.interactions,
            options.out,
            columns=columns,
            timestamp_unit=timestamp_unit,
            k=options.k,
            users_path=options.users,
            guardrails_path=options.guardrails,
            max_new_tokens=options.max_new_tokens,
            shard=options.shard,
            use_vllm=options.vllm,
        )
    except FileNotFoundError as error:  # no model there
        raise DataError(f"{error}.") from error


def resolved(recipe: recipes.Recipe, declared: dict[str, dict[str, recipes.Parameter]], stage: str) -> str:
    """What Papermill has to be given for one stage, as YAML: the values that `recipe` chooses, and the run's folder.

    stage: a notebook's name or how it begins.
    """
    names = [name for name in declared if name.startswith(stage)]
    if len(names) != 1:
        raise RecipeError(recipes.no_stage(stage, declared))
    chosen = recipes.given(recipe, declared[names[0]], RUNS / recipe.name)
    return yaml.safe_dump(chosen, allow_unicode=True, sort_keys=False, width=1000)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Signals that end a program raise `Stopped`, so that everything it started is ended; what is ignored stays so."""

    def stop(number: int, frame: Any) -> NoReturn:
        for other in before:
            signal.signal(other, signal.SIG_IGN)  # ending takes some seconds, which a second Ctrl-C would cut short
        raise Stopped(number)

    def lost(unraisable: Any) -> None:
        """The signal came where Python drops exceptions, such as the end of a weak reference: it is sent again."""
        if not isinstance(unraisable.exc_value, Stopped):
            return hook(unraisable)
        for number in before:
            signal.signal(number, stop)
        threading.Timer(0.1, os.kill, (os.getpid(), unraisable.exc_value.number)).start()

    before = {number: signal.getsignal(number) for number in STOPS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}  # as by nohup
    for number in before:
        signal.signal(number, stop)
    hook, sys.unraisablehook = sys.unraisablehook, lost
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(number: int, options: argparse.Namespace) -> int:
    without = ", without --fresh," if getattr(options, "fresh", False) else ""
    return _ended(f"{STOPS[signal.Signals(number)]}. The same command{without} goes on from here.", 128 + number)


def _ended(message: object, code: int) -> int:
    """`code`, after the message; whatever of the terminal is gone is written to no longer."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    with suppress(OSError):
        sys.stdout.flush()
        return code
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
