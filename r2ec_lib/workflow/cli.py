"""The command line: `r2ec run RECIPE` executes the notebooks of a recipe and renders their report."""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from r2ec_lib.workflow import recipes, report
from r2ec_lib.workflow.folder import NOTEBOOKS, shown
from r2ec_lib.workflow.recipes import RecipeError
from r2ec_lib.workflow.runner import RunError, check, execute, run_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit codes: 0 done, 1 the run failed, 2 the recipe is wrong, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="r2ec", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute the notebooks of a recipe and render the report")
    run.add_argument("recipe", type=Path, help="a YAML file, such as params/quickstart.yaml")
    run.add_argument("-p", metavar="KEY=VALUE", action="append", default=[], help="overrides a key of the recipe")
    run.add_argument("--name", help="name of the run's folder (default: the recipe's)")
    run.add_argument("--fresh", action="store_true", help="remove the run's folder first")
    run.add_argument("--check", action="store_true", help="only check the recipe and say which stages would run")
    show = commands.add_parser("report", help="render the report of a run again")
    show.add_argument("run", help="name or folder of a run")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module=r"nbformat|papermill|traitlets|zmq")
    for name in ("papermill", "traitlets", "asyncio"):  # they repeat in their own words what is told below
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        if options.command == "report":
            print(f"Report: {shown(report.render(run_folder(options.run)))}")
            return 0
        declared = recipes.declared_in(NOTEBOOKS)
        recipe = recipes.load(options.recipe, declared, options.p, options.name)
        if options.check:
            check(recipe)
        else:
            print(f"Report: {shown(execute(recipe, fresh=options.fresh))}")
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
