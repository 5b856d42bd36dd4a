"""The log of a training, and the table that shows it."""

import pandas as pd
import pytest
from IPython.display import DisplayHandle
from transformers import TrainerState

from r2ec_lib.data.storage import read_table
from r2ec_lib.training import monitoring
from r2ec_lib.training.monitoring import COLUMNS, TrainingTables

STATE = TrainerState(max_steps=9, is_world_process_zero=True)


@pytest.fixture(autouse=True)
def empty_history():
    STATE.log_history = []


def log(tables, step, **figures):
    usual = {"reward": 0.1, "length": 4.0, "entropy": 1.0, "share_unclosed": 0.1, "repetition": 0.1}
    usual |= {"step_time": 3.0, "seconds_sampling": 1.0, "seconds_reward": 0.5}
    STATE.global_step = step
    STATE.log_history.append({**usual, **figures, "step": step})
    tables.on_log(None, STATE, None)


def test_a_validation_joins_the_row_of_its_step_and_the_summary_at_the_end_makes_none(tmp_path):
    lines, shown = [], []
    tables = TrainingTables(tmp_path, lambda: [{"step": 0}], lines.append, shown.append)
    log(tables, 1)
    log(tables, 2, reward=0.7)
    STATE.log_history.append({"step": 2, "eval_ndcg@10": 0.25, "eval_length": 3.0})
    tables.on_log(None, STATE, None)
    assert (shown[-1]["reward"], shown[-1]["valid_ndcg@10"], shown[-1]["step"]) == (0.7, 0.25, 2)
    assert len(lines) == 1 and "validation NDCG@10 0.2500, reasoning 3.0 tokens" in lines[0]
    STATE.log_history.append({"step": 2, "train_runtime": 9.0})
    tables.on_log(None, STATE, None)
    assert len(shown) == 3
    tables.on_save(None, STATE, None)
    table = read_table(tmp_path / "log.parquet")
    assert list(table.columns) == COLUMNS and (table["seconds_update"] == 1.5).all()
    assert shown[1]["step"] == 2 and shown[1]["max_steps"] == 9 and shown[1]["elapsed"] >= 0
    assert table["step"].tolist() == [1, 2] and table["valid_ndcg@10"].isna().tolist() == [True, False]
    assert len(read_table(tmp_path / "rollouts.parquet")) == 1


# ---- one group -----------------------------------------------------------------------------------------------------


def kept(ndcg, similarity, reward, step=20, sample_id=7):
    parts = {"reward_ndcg": ndcg, "reward_similarity": similarity, "reward": reward}
    rest = {"trajectory": 0, "chain": "a text", "tokens": 3, "closed": True, "rank": 1 / ndcg, "advantage": 0.0}
    return {"step": step, "sample_id": sample_id, **rest, **parts, "best": False}


def test_the_columns_of_a_group_add_up_to_its_rewards():
    weight = 0.949999988079071  # 0.95 as the trainer's single precision has it
    rewards = [weight * 0.2 + 0.05 * 0.4 - 0.1, weight * 0.5 + 0.05 * 0.6]
    rollouts = pd.DataFrame([kept(0.9, 0.9, 0.9, 10), kept(0.2, 0.4, rewards[0]), kept(0.5, 0.6, rewards[1])])
    group = monitoring.last_group(pd.concat([rollouts, pd.DataFrame([kept(1, 1, 1, sample_id=8)])]), 0.05)
    assert group["sample_id"].tolist() == [7, 7] and group["rank"].tolist() == [2, 5]
    assert [f"{value:.3f}" for value in group["prices and judgements"]] == ["0.000", "-0.100"]
    summed = 0.95 * group["NDCG"] + 0.05 * group["similarity"] + group["prices and judgements"]
    assert summed.tolist() == pytest.approx(group["reward"].tolist(), abs=1e-6)


def test_a_group_without_prices_and_judgements_has_no_column_of_them():
    group = monitoring.last_group(pd.DataFrame([kept(0.2, 0.4, 0.95 * 0.2 + 0.05 * 0.4)]), 0.05)
    assert "prices and judgements" not in group and {"NDCG", "similarity"} <= set(group)


# ---- the live table ------------------------------------------------------------------------------------------------


def rows(count, **more):
    for step in range(1, count + 1):
        yield {"step": step, "reward": step / count, "entropy": 1.0, "max_steps": count, "elapsed": 2.0 * step, **more}


def test_the_table_compares_the_first_tenth_with_the_latest():
    table = monitoring.summary(pd.DataFrame(rows(20))).set_index("figure")
    assert table.loc["reward", "first"] == f"{(1 / 20 + 2 / 20) / 2:.4f}"
    assert table.loc["reward", "now"] == f"{(19 / 20 + 20 / 20) / 2:.4f}"
    assert "KL to the start" not in table.index


def test_a_figure_that_is_taken_now_and_then_counts_where_it_was_taken():
    log = pd.DataFrame(rows(4)).assign(kl=[None, 0.5, None, 0.7])
    shown = monitoring.summary(log).set_index("figure").loc["KL to the start"]
    assert (shown["first"], shown["now"]) == ("0.5000", "0.7000")


def test_statements_that_fail_are_shown_as_a_share_although_they_are_logged_as_a_reward():
    log = pd.DataFrame(rows(20)).assign(reward_untrue=[-0.5] * 10 + [-0.0] * 10)
    shown = monitoring.summary(log).set_index("figure").loc["statements that fail or are missing (share)"]
    assert (shown["first"], shown["now"]) == ("0.500", "0.000")


@pytest.fixture
def displayed(monkeypatch):
    calls = []
    for name in ("display", "update"):
        monkeypatch.setattr(
            DisplayHandle,
            name,
            lambda self, data, raw, name=name: calls.append((self.display_id, name, data)),
        )
    return calls


def test_a_notebook_gets_one_display_that_is_replaced(displayed, monkeypatch):
    monkeypatch.setattr(monitoring, "in_notebook", lambda: True)
    monkeypatch.setattr(monitoring, "REDRAWN_EVERY", 0.0)
    view = monitoring.LiveTable()
    for row in rows(6):
        view.row(row)
    assert [name for _, name, _ in displayed] == ["display"] + 5 * ["update"]
    assert len({handle for handle, _, _ in displayed}) == 1
    last = displayed[-1][2]
    assert "step 6 of 6, 12 s" in last["text/html"] and "<table" in last["text/html"]
    assert "step 3 of 6, 6 s, about 6 s left" in displayed[2][2]["text/plain"]
    assert "left" not in displayed[0][2]["text/plain"]  # one step tells nothing yet


def test_a_resumed_training_is_timed_from_where_it_resumed(displayed, monkeypatch):
    monkeypatch.setattr(monitoring, "in_notebook", lambda: True)
    monkeypatch.setattr(monitoring, "REDRAWN_EVERY", 0.0)
    view = monitoring.LiveTable()
    for step, seconds in ((41, 10.0), (42, 20.0)):
        view.row({"step": step, "max_steps": 80, "elapsed": seconds, "reward": 0.5})
    assert "step 42 of 80, 20 s, about 380 s left" in displayed[1][2]["text/plain"]


def test_a_fast_training_draws_seldom_but_always_its_end(displayed, monkeypatch):
    monkeypatch.setattr(monitoring, "in_notebook", lambda: True)
    monkeypatch.setattr(monitoring, "REDRAWN_EVERY", 1e9)
    view = monitoring.LiveTable()
    for row in rows(50):
        view.row(row)
    assert len(displayed) == 2 and "step 50 of 50" in displayed[-1][2]["text/plain"]


def test_outside_a_notebook_nothing_is_displayed(displayed):
    monitoring.LiveTable().row(next(rows(1)))
    assert not displayed
