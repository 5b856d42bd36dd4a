"""Studies: what a file may say, which runs follow from it, and that they go on, share and fail one by one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import write_json
from r2ec_lib.workflow import recipes, runner, study
from r2ec_lib.workflow.folder import NOTEBOOKS, RunError
from r2ec_lib.workflow.recipes import RecipeError

START = subprocess.Popen
TOY = """name: toy
base: base.yaml
seeds: [0, 1]
set: {rows: 4, stages: [10_variant]}
rows:
  - name: full
  - name: Twice (β 2)
    set: {factor: 4.0, rows: 5}
  - name: broken
    set: {fail: true}
    seeds: [0]
"""


def written(folder: Path, text: str = TOY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "base.yaml").write_text("rate: 0.1\n")
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def test_a_day_in_a_study_is_text(tmp_path):
    found = study.load(written(tmp_path, TOY.replace("factor: 4.0", "start: 2020-01-02")))
    assert study._settings(found, found.rows[1], 0)[-2] == "start=2020-01-02"


def test_a_list_of_texts_in_a_study_is_read_by_the_run_as_it_stands(tmp_path):
    cues = ["the shopper is glad 😀", 'é "']
    found = study.load(written(tmp_path, TOY.replace("factor: 4.0", f"cues: {json.dumps(cues, ensure_ascii=False)}")))
    assert recipes.override(study._settings(found, found.rows[1], 0)[-2], {"cues": "list[str]"}) == ("cues", cues)


def test_a_study_of_rows_and_seeds_makes_runs_row_by_row(tmp_path):
    found = study.load(written(tmp_path))
    names = [found.run_name(row, seed) for row, seed in found.runs()]
    assert names == ["toy-full-seed0", "toy-full-seed1", "toy-twice-2-seed0", "toy-twice-2-seed1", "toy-broken-seed0"]
    one = [found.run_name(row, seed) for row, seed in found.runs(["Twice (β 2)"], [7])]
    assert one == ["toy-full-seed7", "toy-twice-2-seed7"]  # with the row that it is compared with
    assert [seed for _, seed in found.runs(["broken"], [7])] == [7, 7] and study.Row(
        name="Rate 0.5!"
    ).slug == "rate-0.5"
    by_run = found.by_run([*names, "toy-twice-2-seed7", "other-full-seed0", "toy-none-seed0"])
    assert {name: (row.name, seed) for name, (row, seed) in by_run.items()} == {
        **{name: (row.name, seed) for name, (row, seed) in zip(names, found.runs(), strict=True)},
        "toy-twice-2-seed7": ("Twice (β 2)", 7),
    }
    found.name = "t.y"
    assert not found.by_run(names)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: broken", "name: FULL", "two rows are called 'full', or"),
        ("name: broken", "name: β", "a row is called 'β'; a name needs a letter"),
        ("set: {fail: true}", "set: {fail: true}\n    set: {}", 'the key "set" is repeated'),
        ("factor: 4.0", "seed: 3", "set names seed; name it under seeds"),
        ("seeds: [0, 1]\n", "", "seeds: Field required"),
        ("set: {factor: 4.0, rows: 5}", "sets: {factor: 4.0}", r"rows\.1\.sets: Extra inputs"),
        ("set: {factor: 4.0, rows: 5}", "against: nobody", "against names 'nobody'"),
        (
            "set: {factor: 4.0, rows: 5}",
            "expects: {ndcg@20: worse}",
            r"rows\.1\.expects\.ndcg@20: Input should be 'lower' or 'higher'",
        ),
        ("set: {factor: 4.0, rows: 5}", "expects: {ndcg: lower}", r"rows\.1\.expects\.ndcg.*: Input should be"),
        ("set: {factor: 4.0, rows: 5}", "grows: factor", "grows names 'factor', which the row does not set"),
        ("rows:", "rows: [", "no valid YAML"),
    ],
)
def test_a_wrong_study_is_refused_with_its_place(tmp_path, old, new, told):
    path = written(tmp_path, TOY.replace(old, new))
    with pytest.raises(RecipeError, match=rf"study\.yaml: .*{told}"):
        study.load(path)


def test_rows_of_one_key_and_the_first_row_are_a_curve(tmp_path):
    text = TOY.replace("set: {factor: 4.0, rows: 5}", "set: {factor: 4.0}\n    grows: factor")
    found = study.load(written(tmp_path, text))
    assert found.sizes(["full", "Twice (β 2)", "broken"]) == {"factor": ["full", "Twice (β 2)"]}
    assert found.sizes(["full", "broken"]) == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such study"),
        (b"", "study: Input should be"),
        ("name: é".encode("latin-1"), "no valid YAML"),
        (b"[" * 5000, "no valid YAML"),
    ],
)
def test_a_file_that_is_no_study_is_named(tmp_path, content, told):
    if content is not None:
        (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=rf"study\.yaml: {told}"):
        study.load(tmp_path / "study.yaml")


FAKE = """
import json, sys
from pathlib import Path
runs, name = Path(sys.argv[1]), sys.argv[sys.argv.index("--name") + 1]
print(*sys.argv[2:], sep="\\n")
if "fail=true" in sys.argv:
    sys.exit("broken on purpose")
cost = {"seconds": 90.0, "peak_memory_gb": 0.5}
stages = {"01": {**cost, "copied_from": "other"}, "02": cost}
results = {"models": {"r2ec": {"hit@5": 0.5, "ndcg@20": 0.25}}, "tokens": 9.0}
for path, value in {"evaluation/metrics.json": results, "provenance.json": {"stages": stages}}.items():
    (runs / name / path).parent.mkdir(parents=True, exist_ok=True)
    (runs / name / path).write_text(json.dumps(value))
"""


@pytest.fixture
def toys(world, monkeypatch):
    """`execute` of the toy study, the finished runs of each page, and the commands; runs are a script of no time."""
    (world / "fake.py").write_text(FAKE)
    second = world / "notebooks" / "02_second.ipynb"
    second.write_text(second.read_text().replace("factor: float", "seed: int = 0  # seed\\nfactor: float"))
    (world / "notebooks" / "10_variant.ipynb").write_bytes(second.read_bytes())
    pages, commands = [], []

    def fake(command, **how):
        commands.append(command)
        return START([sys.executable, str(world / "fake.py"), str(world / "runs"), *command[3:]], **how)

    def finished(recipe, declared, runs):
        return (runs / recipe.name / "provenance.json").is_file()

    monkeypatch.setattr(study.subprocess, "Popen", fake)
    monkeypatch.setattr(study, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 10)))
    monkeypatch.setattr(study, "NOTEBOOKS", world / "notebooks")
    monkeypatch.setattr(study.runner, "is_current", finished)
    monkeypatch.setattr(study, "_page", lambda plan, path, names, runs: pages.append(names) or runs / "page")

    def execute(*names, **options):
        return study.execute(written(world / "params"), names, runs=world / "runs", **options)

    return execute, pages, commands


def test_rows_and_seeds_become_runs_whose_table_grows(toys, capsys):
    execute, pages, commands = toys
    execute("Twice (β 2)", seeds=[0], jobs=1, overrides=["rate=0.2"])
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["row", "full", "Twice"]
    assert told[1].split() == ["full", "0", "0.5000", "0.2500", "9.0", "1.5"]  # what was copied cost nothing
    asked = [command[command.index("--shared") + 1 :] for command in commands]
    assert asked[1][0].endswith("base.yaml") and asked[1][1:3] == ["--name", "toy-twice-2-seed0"]
    chosen = ["rows=5", 'stages=["10_variant"]', "factor=4.0", "seed=0", "rate=0.2"]
    assert asked[1][3:] == [part for text in chosen for part in ("-p", text)]
    execute("Twice (β 2)", seeds=[0, 1], name="again")
    assert pages[1] == [f"again-{row}-seed{seed}" for row in ("full", "twice-2") for seed in (0, 1)]


def test_the_page_keeps_what_has_run_before_of_other_rows_and_seeds(toys):
    execute, pages, commands = toys
    execute("Twice (β 2)", seeds=[7])
    execute("full", seeds=[0])
    assert pages[1] == ["toy-full-seed0", "toy-full-seed7", "toy-twice-2-seed7"] and len(commands) == 3


def test_a_study_goes_on_past_a_failed_run_and_later_runs_it_alone(toys, capsys):
    execute, pages, commands = toys
    with pytest.raises(RunError, match=r"1 of 5 runs failed \(runs/.logs/toy-broken-seed0\.txt\)"):
        execute()
    assert len(commands) == 5 and len(pages[0]) == 4
    with pytest.raises(RunError, match="1 of 5 runs failed"):
        execute()
    assert Path("runs/.logs/toy-broken-seed0.txt").read_text().count("broken on purpose") == 2
    assert len(commands) == 6 and capsys.readouterr().out.count("0.2500") == 8


def test_wrong_rows_and_keys_are_refused_before_anything_runs(toys):
    execute, *_ = toys
    with pytest.raises(RecipeError, match=r"no row is called 'ful'\. Did you mean \"full\"\?"):
        execute("ful")
    with pytest.raises(RecipeError, match=r'full: .*unknown key "factr"'):
        execute("broken", overrides=["factr=2.0"])
    with pytest.raises(RecipeError, match="full: the stages lack 10_variant"):
        execute(overrides=["stages=[01_first]"])
    with pytest.raises(RecipeError, match="-p seed: a study names its seeds with --seeds"):
        execute(overrides=["seed=3"])
    with pytest.raises(RecipeError, match=r"-p factor: the row 'Twice \(β 2\)' sets it"):
        execute(overrides=["factor=2.0"])
    with pytest.raises(DataError, match="jobs is -1"):
        execute(jobs=-1)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("free", "most"), [(2**40, 2), (0, 1)])
def test_no_run_is_started_beside_another_without_memory_for_it(toys, monkeypatch, free, most):
    execute, *_ = toys
    monkeypatch.setattr(study.psutil, "virtual_memory", lambda: type("Memory", (), {"available": free})())
    start, started, beside = study.subprocess.Popen, [], []

    class Slow:
        """A process that is over, but is found so only at the fourth question."""

        pid, returncode, questions = os.getpid(), 0, 0

        def poll(self):
            self.questions += 1
            return 0 if self.questions > 3 else None

    def counted(command, **how):
        start(command, **how).wait()
        beside.append(1 + sum(process.questions <= 3 for process in started))
        started.append(Slow())
        return started[-1]

    monkeypatch.setattr(study.subprocess, "Popen", counted)
    execute("full", jobs=2, seeds=[0, 1, 2])
    assert max(beside) == most


def test_memory_that_a_running_run_has_yet_to_take_is_not_free(toys, monkeypatch):
    monkeypatch.setattr(study.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10 * 2**30})())
    table, this = type("Table", (), {"memory_gb": 4.0})(), type("Run", (), {"pid": os.getpid()})()
    monkeypatch.setattr(study.kernels, "memory_bytes", lambda processes: 2**30 * bool(list(processes)))
    assert study._free_gb({"one": this, "other": this}, table) == pytest.approx(10 - 2 * (4 - 1))


def test_a_study_whose_first_row_failed_says_so_and_has_no_page(toys):
    execute, pages, _ = toys
    with pytest.raises(RunError, match=r"2 of 2 runs failed \(.*full-seed0.*\), all of the first row"):
        execute("full", overrides=["fail=true"], seeds=[0, 1])
    assert not pages


def test_a_finished_run_shows_how_much_memory_another_needs(tmp_path, capsys):
    found = study.load(written(tmp_path))
    for seed, peaks in ((0, (0.5, 0.75)), (1, (0.25, 0.25))):
        folder = tmp_path / f"toy-full-seed{seed}"
        stages = {str(number): {"seconds": 1, "peak_memory_gb": peak} for number, peak in enumerate(peaks)}
        write_json(
            {"models": {"r2ec": {"hit@5": 1, "ndcg@20": 1}}, "tokens": 1}, folder / "evaluation" / "metrics.json"
        )
        write_json({"stages": stages}, folder / "provenance.json")
    table = study._Table(found, tmp_path)
    for seed in (0, 1):
        table.add(f"toy-full-seed{seed}")
        assert table.memory_gb == 0.75
    assert capsys.readouterr().out.count("NDCG@20") == 1


def test_the_page_is_a_run_of_its_own_that_knows_the_file_and_the_finished_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study.runner, "execute", lambda recipe, runs: (recipe, runs))
    found = study.load(written(tmp_path))
    recipe, runs = study._page(found, Path("study.yaml"), ["toy-full-seed0"], tmp_path / "runs")
    values = {"study_path": str(tmp_path.resolve() / "study.yaml"), "study_runs": ["toy-full-seed0"]}
    assert (recipe.name, recipe.values, recipe.stages, runs) == ("toy", values, ["11_ablations"], tmp_path / "runs")


def test_a_stopped_study_ends_the_runs_that_it_started(toys, monkeypatch):
    execute, *_ = toys
    started = []

    def slow(command, **how):
        started.append(START([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[-1]

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(study.subprocess, "Popen", slow)
    monkeypatch.setattr(study.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute("full", jobs=2)
    assert [process.poll() for process in started] == [-15]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.parent.glob("params/ablations/*.yaml")), ids=lambda path: path.stem)
def test_every_study_is_right_says_what_it_is_for_and_begins_with_its_base(path):
    assert path.read_text().startswith("# ")
    found, declared = study.load(path), recipes.declared_in(NOTEBOOKS)
    for row, seed in found.runs():
        chosen = study._settings(found, row, seed)
        recipe = recipes.load(path.parent / found.base, declared, chosen, found.run_name(row, seed))
        assert runner.stage_order(recipe, declared) == ["01_data_preparation", "02_training", "10_variant"]
    assert not found.rows[0].set
