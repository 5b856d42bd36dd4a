"""The view of a running training: what it shows, when it draws, and what it leaves to lines of text."""

import pandas as pd
import pytest

from r2ec_lib.training import monitoring


def rows(count, **more):
    for step in range(1, count + 1):
        yield {"step": step, "reward": step / count, "entropy": 1.0, "max_steps": count, "elapsed": 2.0 * step, **more}


def test_the_table_compares_the_first_tenth_with_the_latest_and_draws_the_course():
    table = monitoring.summary(pd.DataFrame(rows(20))).set_index("figure")
    assert table.loc["reward", "first"] == f"{(1 / 20 + 2 / 20) / 2:.4f}"
    assert table.loc["reward", "now"] == f"{(19 / 20 + 20 / 20) / 2:.4f}"
    assert table.loc["reward", "course"][0] == "▁" and table.loc["reward", "course"][-1] == "█"
    assert set(table.loc["entropy (nats a token)", "course"]) == {"▄"}
    assert "KL to the start" not in table.index


def test_a_figure_that_is_taken_now_and_then_counts_where_it_was_taken():
    log = pd.DataFrame(rows(4)).assign(kl=[None, 0.5, None, 0.7])
    shown = monitoring.summary(log).set_index("figure").loc["KL to the start"]
    assert (shown["first"], shown["now"], shown["course"]) == ("0.5000", "0.7000", "▁█")


@pytest.fixture
def displayed(monkeypatch):
    calls = []
    for name in ("display", "update"):
        monkeypatch.setattr(
            monitoring.DisplayHandle,
            name,
            lambda self, data, raw, name=name: calls.append((self.display_id, name, data)),
        )
    return calls


def test_a_notebook_gets_one_display_that_is_replaced(displayed):
    view, lines = monitoring.LiveTable(notebook=True, out=print, seconds=0.0), []
    view.out = lines.append
    for row in rows(6):
        view.row(row)
        view.line(f"step {row['step']}  reward")
    view.line("step 6  validation NDCG@10 0.1")
    assert [name for _, name, _ in displayed] == ["display"] + 5 * ["update"]
    assert len({handle for handle, _, _ in displayed}) == 1
    assert lines == ["step 6  validation NDCG@10 0.1"]
    last = displayed[-1][2]
    assert "step 6 of 6, 12 s" in last["text/html"] and "<table" in last["text/html"]
    assert "step 3 of 6, 6 s, about 6 s left" in displayed[2][2]["text/plain"]


def test_a_fast_training_draws_seldom_but_always_its_end(displayed):
    view = monitoring.LiveTable(notebook=True, seconds=1e9)
    for row in rows(50):
        view.row(row)
    assert len(displayed) == 2 and "step 50 of 50" in displayed[-1][2]["text/plain"]


def test_warnings_stand_above_the_table_and_foreign_text_is_escaped(displayed):
    lines = []
    view = monitoring.LiveTable(notebook=True, out=lines.append, seconds=0.0)
    view.line("WARNING step 1: entropy is 0.01 <b>")
    view.row(next(rows(2)))
    html = displayed[0][2]["text/html"]
    assert lines == view.warnings and html.index("&lt;b&gt;") < html.index("<table")


def test_outside_a_notebook_there_are_lines_alone(displayed):
    lines = []
    view = monitoring.LiveTable(out=lines.append)
    assert not view.notebook
    view.row(next(rows(1)))
    view.line("step 1  reward")
    assert not displayed and lines == ["step 1  reward"]
