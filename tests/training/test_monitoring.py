"""The log of a training and the watch over its language."""

import pytest
from transformers import TrainerState

from r2ec_lib.training.monitoring import COLUMNS, TrainingTables, beyond, log_table

LIMITS = {
    "warn_entropy_below": 0.5,
    "warn_kl_above": 1.0,
    "warn_unclosed_above": 0.3,
    "warn_repetition_above": 0.2,
}


STATE = TrainerState(max_steps=9, is_world_process_zero=True)


@pytest.fixture(autouse=True)
def empty_history():
    STATE.log_history = []


def log(tables, step, **figures):
    usual = {"reward": 0.1, "completions/mean_length": 4.0, "entropy": 1.0, "share_unclosed": 0.1, "repetition": 0.1}
    usual |= {"step_time": 3.0, "seconds_sampling": 1.0, "seconds_reward": 0.5}
    STATE.global_step = step
    STATE.log_history.append({**usual, **figures, "step": step})
    tables.on_log(None, STATE, None)


@pytest.mark.parametrize(
    ("figures", "named"),
    [
        ({"entropy": 0.4}, ["entropy"]),
        ({"kl": 1.5, "share_unclosed": 0.4}, ["kl", "share_unclosed"]),
        ({"repetition": 0.21}, ["repetition"]),
        ({"entropy": 0.5, "kl": 1.0, "share_unclosed": 0.3, "repetition": 0.2}, []),
        ({}, []),
    ],
)
def test_a_figure_beyond_its_limit_is_named_and_one_at_its_limit_is_not(figures, named):
    assert list(beyond(figures, LIMITS)) == named
    assert beyond(figures, dict.fromkeys(LIMITS)) == {}


def test_a_warning_is_given_when_a_limit_is_passed_and_again_after_it_was_kept(tmp_path):
    lines, shown = [], []
    tables = TrainingTables(tmp_path, lambda: [], lines.append, 100, show=shown.append, limits=LIMITS)
    for step, entropy in enumerate([1.0, 0.4, 0.3, 0.9, 0.2], 1):
        log(tables, step, entropy=entropy)
    assert [line[:14] for line in lines] == ["WARNING step 2", "WARNING step 5"]
    assert "entropy is 0.4, below 0.5" in lines[0]
    table = log_table(STATE.log_history)
    assert table["warnings"].tolist() == ["", "entropy", "entropy", "", "entropy"]
    assert list(table.columns) == COLUMNS and (table["seconds_update"] == 1.5).all()
    assert shown[1]["step"] == 2 and shown[1]["max_steps"] == 9 and shown[1]["elapsed"] >= 0


def test_a_figure_that_is_taken_now_and_then_stays_warned_of_in_between(tmp_path):
    lines = []
    tables = TrainingTables(tmp_path, lambda: [], lines.append, 100, limits=LIMITS)
    log(tables, 1, kl=2.0)
    log(tables, 2)
    log(tables, 3, kl=3.0)
    assert len(lines) == 1


def test_without_limits_nothing_is_watched(tmp_path):
    lines = []
    tables = TrainingTables(tmp_path, lambda: [], lines.append, 100)
    log(tables, 1, entropy=0.0, kl=99.0, share_unclosed=1.0, repetition=1.0)
    assert lines == []
