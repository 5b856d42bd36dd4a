"""What a run records about the place where it was made."""

import subprocess
import sys

from workflow.toy import load, notebook

from r2ec_lib.data.storage import read_json, write_json
from r2ec_lib.workflow import provenance
from r2ec_lib.workflow.folder import RunFolder


def test_a_run_records_recipe_threads_machine_and_versions(world):
    run = RunFolder(world / "runs" / "toy")
    facts = provenance.record(load(world, "rows: 4"), run, {"OMP_NUM_THREADS": "3"})
    assert read_json(run.provenance) == facts
    assert facts["recipe"] == {"rows": 4} and facts["name"] == "toy" and facts["seed"] == 0 and facts["threads"] == 3
    assert facts["python"] == sys.version.split()[0] and facts["cores"] >= 1 and facts["memory_gb"] > 0
    assert facts["started"].endswith("+00:00") and {"torch", "transformers", "trl"} <= set(facts["versions"])


def test_costs_of_stages_that_are_done_are_kept(world):
    run = RunFolder(world / "runs" / "toy")
    write_json({"stages": {"01_first": {"seconds": 5.0}}}, run.provenance)
    facts = provenance.record(load(world, ""), run, {"OMP_NUM_THREADS": "1"})
    assert facts["stages"] == {"01_first": {"seconds": 5.0}}


def test_the_commit_and_whether_it_was_changed_are_recorded(world, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", world)
    run, variables = RunFolder(world / "runs" / "toy"), {"OMP_NUM_THREADS": "1"}
    facts = provenance.record(load(world, ""), run, variables)
    assert facts["commit"] is None and facts["uncommitted_changes"] is None  # not under version control
    git = ["git", "-C", str(world), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    facts = provenance.record(load(world, ""), RunFolder(world / ".git" / "run"), variables)
    assert facts["commit"] == commit and facts["uncommitted_changes"] is False
    (world / "new.txt").write_text("new")
    assert provenance.record(load(world, ""), run, variables)["uncommitted_changes"] is True


def test_the_seed_of_the_recipe_is_recorded(world):
    notebook(world / "notebooks" / "03_third.ipynb", "seed: int = 0  # seed")
    run = RunFolder(world / "runs" / "toy")
    assert provenance.record(load(world, "seed: 7"), run, {"OMP_NUM_THREADS": "1"})["seed"] == 7
