"""The command as it is typed: its messages, its exit codes, and what is left when it is stopped."""

import io
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import yaml
from workflow.toy import FIRST, notebook, start

from r2ec_lib.model import R2ec
from r2ec_lib.serving import lists
from r2ec_lib.workflow import cli, report, runner, stages, study
from r2ec_lib.workflow.folder import RunFolder, Stopped

SLEEPS = (
    "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'], "
    "start_new_session=True)\nimport time\n"
    "try:\n    print('sleeping', flush=True)\n    time.sleep(60)\nfinally:\n    open('put away', 'w').close()"
)


def test_a_wrong_recipe_ends_the_command_with_two_and_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text("no_such_key_anywhere: 1\n")
    assert cli.main(["run", "x.yaml"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == 'x.yaml line 1: unknown key "no_such_key_anywhere", no notebook declares it.\n'


@pytest.fixture
def here(world, monkeypatch):
    """The toy project for the command line in this process."""
    monkeypatch.setattr(cli, "NOTEBOOKS", world / "notebooks")
    monkeypatch.setattr(runner.execute, "__defaults__", (False, world / "runs"))
    return world


def test_a_failed_run_ends_with_one_and_names_its_report(here, capfd):
    (here / "toy.yaml").write_text("fail: true\n")
    assert cli.main(["run", "toy.yaml"]) == 1
    told = capfd.readouterr().err
    assert "broken on purpose" in told and "Traceback" not in told
    assert "runs/toy/report/index.html" in told and (here / "runs" / "toy" / "report" / "02_second.html").is_file()


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, "Interrupted"),
        (signal.SIGTERM, 143, "Stopped by SIGTERM"),
        (signal.SIGHUP, 129, "The terminal was closed"),
    ],
)
def test_a_stopped_run_takes_everything_along_and_says_how_to_go_on(world, number, code, told):
    """In the middle of a stage, with a child of the kernel that has left its session; the stage is left open."""
    notebook(world / "notebooks" / "01_first.ipynb", FIRST, SLEEPS)
    (world / "toy.yaml").write_text("")
    before = signal.signal(number, signal.SIG_DFL)  # ignored where the tests run in a background job
    try:
        child = start(world, "run", "toy.yaml")
    finally:
        signal.signal(number, before)
    assert child.stdout.readline() == "01_first: starts\n"
    assert child.stdout.readline() == "    sleeping\n"
    started = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(number)
    child.send_signal(number)  # once more, out of impatience
    _, message = child.communicate(timeout=60)
    assert child.returncode == code and message.strip() == f"{told}. The same command goes on from here."
    assert len(started) >= 2 and not psutil.wait_procs(started, timeout=5)[1]
    assert (world / "notebooks" / "put away").exists()  # the cell was interrupted, not killed
    assert stages.state(RunFolder(world / "runs" / "toy"), "01_first")["finished"] is False


def test_the_kernel_of_a_killed_command_ends_by_itself(world):
    notebook(world / "notebooks" / "01_first.ipynb", FIRST, SLEEPS.replace("sys.executable", "'true'"))
    (world / "toy.yaml").write_text("")
    child = start(world, "run", "toy.yaml")
    while "sleeping" not in child.stdout.readline():
        pass
    started = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    assert started and not psutil.wait_procs(started, timeout=20)[1]


def test_a_closed_output_ends_the_command_without_a_traceback(world):
    notebook(world / "notebooks" / "01_first.ipynb", FIRST, SLEEPS)
    (world / "toy.yaml").write_text("")
    child = start(world, "run", "toy.yaml")
    child.stdout.close()
    told = child.stderr.read()
    assert child.wait(60) == 141 and told == "Standard output was closed. The same command goes on from here.\n"


def test_an_output_of_ascii_shows_what_it_can(here, monkeypatch, capfd):
    notebook(here / "notebooks" / "01_first.ipynb", FIRST, "print('R²ec')")
    (here / "toy.yaml").write_text("stages: [01_first]\n")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert cli.main(["run", "toy.yaml"]) == 0
    out, told = (stream.buffer.getvalue().decode("ascii") for stream in streams.values())
    assert "    R?ec\n" in out and told == "" == capfd.readouterr().err


def test_a_library_without_its_notebooks_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "x.yaml").write_text("rows: 1\nrate: 2\n")
    assert cli.main(["run", str(tmp_path / "x.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_recipe_is_printed_with_its_base_for_all_stages_or_one(world, monkeypatch, capsys):
    monkeypatch.setattr(cli, "NOTEBOOKS", world / "notebooks")
    monkeypatch.setattr(cli, "RUNS", world / "runs")
    monkeypatch.setattr(runner, "stage_order", lambda recipe, declared: list(declared))
    (world / "base.yaml").write_text("rows: 7\nfactor: 3.0\n")
    (world / "toy.yaml").write_text("base: base.yaml\nsource_path: log.csv\n")
    assert cli.main(["recipe", "toy.yaml", "--stage", "01", "-p", "rate=1e-4"]) == 0
    one = yaml.safe_load(capsys.readouterr().out)
    assert one == {
        "run_dir": str(world / "runs" / "toy"),
        "rows": 7,
        "source_path": str(world / "log.csv"),
        "rate": 1e-4,
    }
    assert cli.main(["recipe", "toy.yaml"]) == 0
    everything = yaml.safe_load(capsys.readouterr().out)
    assert everything["factor"] == 3.0 and everything["ks"] == [5, 10] and everything["name"] == "toy"
    for stage in ("3", "0"):
        assert cli.main(["recipe", "toy.yaml", "--stage", stage]) == 2
        assert f'"{stage}" (01_first, 02_second)' in capsys.readouterr().err


def test_what_is_typed_reaches_the_run_the_report_and_the_study(world, monkeypatch, capsys):
    monkeypatch.setattr(cli, "NOTEBOOKS", world / "notebooks")
    asked = []
    monkeypatch.setattr(runner, "execute", lambda recipe, **how: asked.append((recipe.name, how)) or world / "page")
    monkeypatch.setattr(runner, "check", lambda recipe, shared: asked.append((recipe.name, "checked", shared)))
    monkeypatch.setattr(study, "execute", lambda *given: asked.append(given) or world / "page")
    monkeypatch.setattr(runner, "existing_run", lambda name: RunFolder(world / name))
    monkeypatch.setattr(report, "render", lambda run: asked.append(run.path.name) or world / "page")
    (world / "toy.yaml").write_text("")
    for line in (
        "run toy.yaml --name a --fresh",
        "run toy.yaml --shared",
        "run toy.yaml --shared --check",
        "report b",
    ):
        assert cli.main(line.split()) == 0
    assert cli.main("study s.yaml --row x --row y --seeds 1 2 --jobs 3 --name n -p rows=1".split()) == 0
    assert asked == [
        ("a", {"fresh": True, "shared": False}),
        ("toy", {"fresh": False, "shared": True}),
        ("toy", "checked", True),
        "b",
        (Path("s.yaml"), ["x", "y"], [1, 2], 3, ["rows=1"], "n"),
    ]
    assert capsys.readouterr().out.splitlines() == [*["Report: page"] * 3, "Study: page"]


@pytest.fixture
def shop(tiny, samples, items, tmp_path, monkeypatch):
    """The working folder, with a saved model, a log with columns of its own, and parts of ten shoppers."""
    tiny.save(tmp_path / "model")
    few = samples[["user_id", "target"]].assign(at="2024-01-01", sku=items["item_id"].to_numpy()[samples["target"]])
    few.rename(columns={"user_id": "customer"}).to_csv(tmp_path / "log.csv", index=False)
    monkeypatch.setattr(lists, "PART", 10)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RECOMMEND = (
    "recommend model log.csv --out lists.parquet --k 2 -p column_user_id=customer -p column_item_id=sku".split()
)
RECOMMEND += ["-p", "column_timestamp=at"]


def test_a_stopped_recommendation_goes_on_by_the_same_command(shop, monkeypatch, capsys):
    original, asked = R2ec.recommend, []

    def recommend(self, history, *args, **kwargs):
        asked.append(len(history))
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, history, *args, **kwargs)

    monkeypatch.setattr(R2ec, "recommend", recommend)
    assert cli.main([*RECOMMEND, "--max-new-tokens", "4"]) == 143
    assert "The same command goes on from here." in capsys.readouterr().err and not Path("lists.parquet").exists()
    assert cli.main([*RECOMMEND, "--max-new-tokens", "5"]) == 1
    assert "with another max_new_tokens" in capsys.readouterr().err
    assert cli.main([*RECOMMEND, "--max-new-tokens", "4"]) == 0
    assert asked == [10, 10, 10, 4] and "24 lists in lists.parquet" in capsys.readouterr().out
    assert len(pd.read_parquet("lists.parquet")) == 48


def test_lists_without_reasonings_for_some_shoppers_of_a_shard(shop):
    Path("users.csv").write_text("customer\n" + "\n".join(f"u{number}" for number in range(10)))
    choices = ["--users", "users.csv", "--shard", "2/2", "--no-reasoning"]
    assert cli.main([*RECOMMEND, *choices]) == 0
    written = pd.read_parquet("lists.parquet")
    expected = [f"u{number}" for number in range(10) if lists.shard_of(f"u{number}", 2) == 2]
    assert written["user_id"].unique().tolist() == expected and set(written["reasoning"]) == {""}


def test_times_in_seconds_are_read_as_such(shop, capsys):
    Path("seconds.csv").write_text("customer,sku,at\nu1,i3,1700000000\n")
    command = [RECOMMEND[0], RECOMMEND[1], "seconds.csv", *RECOMMEND[3:], "--no-reasoning"]
    assert cli.main(command) == 1 and "It would fit timestamp_unit 's'" in capsys.readouterr().err
    assert cli.main([*command, "-p", "timestamp_unit=s"]) == 0 and len(pd.read_parquet("lists.parquet")) == 2


def test_items_are_changed_by_a_command(shop, capsys):
    Path("items.csv").write_text("sku,title\nnew,gold harp\ni3,gold flute\n")
    assert cli.main(["items", "model", "items.csv", "-p", "column_catalogue_id=sku"]) == 0
    assert cli.main(["items", "model", "items.csv", "-p", "column_catalogue_id=sku", "--remove"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in told] == ["1 items added", "0 items added"] and "2 removed" in told[1]
    assert len(R2ec.load("model").titles) == 29


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["recommend", "nowhere", *RECOMMEND[2:]], 1, "nowhere holds no saved R²ec"),
        ([*RECOMMEND, "-p", "column_user=x"], 2, 'column_user: unknown key; .* Did you mean "column_user_id"'),
        ([*RECOMMEND, "-p", "column_rating=stars"], 1, "log.csv: no column 'stars' for rating"),
        ([*RECOMMEND, "--guardrails", "log.csv"], 1, "log.csv: expected keys and values"),
        ([*RECOMMEND, "--k", "0"], 1, "k is 0"),
        ([*RECOMMEND, "--vllm"], 1, "vLLM is not installed"),
        ([*RECOMMEND, "--out", "lists.xlsx"], 1, "lists.xlsx: expected a name in .csv or .parquet"),
        ([*RECOMMEND, "--out", "log.csv/lists.parquet"], 1, "Not a directory: 'log.csv/"),
    ],
)
def test_a_command_that_cannot_be_done_ends_with_one_message(shop, arguments, code, told, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert cli.main(arguments) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error and re.search(told, error)


@pytest.mark.parametrize("shard", ["0/4", "5/4", "3", "a/b", "-1/2"])
def test_a_shard_that_does_not_exist_is_refused(shard, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([*RECOMMEND, f"--shard={shard}"])
    assert "expected I/N" in capsys.readouterr().err


def test_a_signal_that_comes_where_python_drops_exceptions_still_stops():
    class Last:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped), cli._stopped_by_signals():
        last = Last()
        del last
        time.sleep(20)


def test_signals_and_lost_exceptions_are_handled_as_before_once_it_is_over(capsys):
    """What is ignored, as by nohup, stays ignored; other lost exceptions are shown as ever."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers, hook = [signal.getsignal(number) for number in cli.STOPS], sys.unraisablehook
    lost = []
    try:
        sys.unraisablehook = lost.append
        with cli._stopped_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in handlers
            sys.unraisablehook(SimpleNamespace(exc_value=ValueError("x")))
        assert [signal.getsignal(number) for number in cli.STOPS] == handlers and sys.unraisablehook == lost.append
    finally:
        signal.signal(signal.SIGHUP, before)
        sys.unraisablehook = hook
    assert len(lost) == 1
