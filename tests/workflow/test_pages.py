"""An executed notebook as a page: what is shown of it, what is left out, and what never gets through."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from r2ec_lib.workflow import pages

HOSTILE = (
    "<style>#T_a_row0 { color: red; } body { display: none; } #T_b { background: url(http://x.y/z); } "
    "#T_c, p { top: 9px; }</style>"
    '<table id="T_a" onclick="steal()"><tr><td style="color: red; background: url(http://x.y)">Tom &amp; Co</td></tr>'
    '</table><script>alert(1)</script><img src="http://x.y/z.png"><img src="x" onerror="alert(1)">'
    '<a href="javascript:alert(1)">a</a><a href="data:text/html,x">b</a>'
    '<iframe src="http://x.y"></iframe><svg onload="alert(1)"></svg>'
)


def test_foreign_html_keeps_its_table_and_loses_whatever_acts_or_loads():
    clean = pages.sanitise(HOSTILE)
    assert (
        "#T_a_row0 { color: red; }" in clean
        and '<table id="T_a"><tbody><tr><td style="color: red;">Tom &amp; Co' in clean
    )
    for bad in (
        'src="x"',
        "top: 9px",
        "data:text",
        "script",
        "alert",
        "onclick",
        "onerror",
        "onload",
        "http",
        "url(",
        "display: none",
        "iframe",
        "<svg",
    ):
        assert bad not in clean


def test_columns_of_words_are_set_flush_left_and_numbers_stay_right():
    rows = "<tr><td>lamp</td><td>1,234.5</td></tr><tr><td>7</td><td>–</td></tr>"
    html = pages.aligned(f"<table><tr><th>name</th><th>n</th></tr>{rows}</table>")
    ragged = f"<table><tr><td>lamp</td></tr>{rows}</table>"
    assert "words" not in pages.aligned(ragged)
    assert '<th class="words">name</th><th>n</th>' in html and '<td class="words">7</td><td>–</td>' in html
    cells = ("0.5 (0.4 to 0.6)", "0.5<br>(0.4 to 0.6)", "† 12", "+0.1 (-0.1 to +0.3)\n+5% (-5% to +15%)", "1,234.5")
    rows = "".join(f"<tr><th>{row}</th><td>{cell}</td></tr>" for row, cell in enumerate(cells))
    assert "words" not in pages.aligned(f"<table>{rows}</table>")
    named = pages.aligned("<table><tr><th></th><th>n</th></tr><tr><th>lamp</th><td>7</td></tr></table>")
    assert '<th class="words">lamp</th><td>7</td>' in named and "<th>n</th>" in named


def test_code_that_shows_nothing_is_unfolded_with_the_code_after_it():
    shown = [new_output("stream", name="stdout", text="out")]
    cells = [new_code_cell("seed = 0", metadata={"tags": ["parameters"]}), new_code_cell("import a")]
    cells += [new_code_cell("a.b()", outputs=shown), new_code_cell("c"), new_markdown_cell("d")]
    notebook = new_notebook(cells=cells)
    pages.prepare(notebook)
    assert [cell.source for cell in notebook.cells] == ["seed = 0", "import a\n\na.b()", "c", "d"]


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        ([], True),
        (["only:source=bazaar"], False),
        (["only:source=amazon"], True),
        (["only:source=bazaar|amazon"], True),
        (["only:source=amazon", "only:backbone=tiny"], False),
        (["only:source=amazon", "only:seed=0"], True),
        (["only:no_such_key=1"], True),
        (["only:source!=bazaar"], True),
        (["only:source!=bazaar|amazon"], False),
        (["only:no_such_key!=1"], True),
    ],
)
def test_cells_that_concern_other_runs_are_left_out(tags, kept):
    cells = [
        new_markdown_cell("text", metadata={"tags": tags}),
        new_code_cell("1", metadata={"tags": tags}, outputs=[new_output("stream", name="stdout", text="out")]),
    ]
    recipe = {"source": "amazon", "backbone": "some/model", "seed": 0}
    assert len(pages.concerning(new_notebook(cells=cells), recipe).cells) == (2 if kept else 0)


def test_an_error_is_shown_whatever_the_cell_concerns():
    error = new_output("error", ename="ValueError", evalue="broken", traceback=["broken"])
    cells = [new_code_cell("1", metadata={"tags": ["only:source=bazaar"]}, outputs=[error]), new_code_cell("2")]
    notebook = pages.concerning(new_notebook(cells=cells), {"source": "logs"})
    assert len(notebook.cells) == 2 and pages.has_failed(notebook)
    assert not pages.has_failed(new_notebook(cells=cells[1:]))


def test_a_failed_page_ends_with_the_error():
    error = new_output("error", ename="ValueError", evalue="broken", traceback=["broken"])
    cells = [new_markdown_cell("## Ran"), new_code_cell("1", outputs=[error]), new_markdown_cell("## Never ran")]
    notebook = new_notebook(cells=cells)
    assert [entry["text"] for entry in pages.prepare(notebook)] == ["Ran"]
    assert len(notebook.cells) == 2 and pages.has_failed(notebook)


def test_a_plot_is_told_by_its_titles_and_without_one_by_its_section():
    shown = [new_output("display_data", {"image/png": "aaaa"})]
    sources = ('ax.set_title("Left")\nfig.suptitle("Right")', 'ax.set_title(f"{name}")')
    notebook = new_notebook(cells=[new_markdown_cell("## Here"), *(new_code_cell(s, outputs=shown) for s in sources)])
    pages.prepare(notebook)
    assert [cell.metadata["alt"] for cell in notebook.cells[1:]] == ["Plot: Left; Right", "Plot: Here"]


def test_a_picture_is_a_picture():
    assert pages.sanitise('<img src="data:text/html,x"><img src="data:image/png;base64,x">').count("<img") == 1


def test_the_first_page_gets_the_figures_of_tagged_cells_with_the_text_below_them():
    shown = [new_output("stream", name="stdout", text="out"), new_output("display_data", {"image/png": "aaaa"})]
    tags = {"tags": ["overview"]}
    cells = [new_markdown_cell("## How tall?"), new_code_cell("import a")]
    cells += [new_code_cell('ax.set_title("Tall")', metadata=tags, outputs=shown)]
    cells += [new_markdown_cell("*Higher* is $x$."), new_code_cell("untagged", outputs=shown)]
    cells += [new_code_cell("last", metadata=tags, outputs=shown), new_code_cell("none", metadata=tags)]
    notebook = new_notebook(cells=cells)
    pages.prepare(notebook)
    first, last = pages.front_figures(notebook, {"file": "02.html", "title": "Training"})
    assert (first["title"], first["alt"], first["png"]) == ("How tall?", "Plot: Tall", "aaaa")
    assert (first["file"], first["page"]) == ("02.html", "Training")
    assert "<em>Higher</em>" in first["text"] and "<math" in first["text"]
    assert last["text"] == ""


def test_a_line_end_that_was_printed_by_itself_stays_and_blank_output_goes():
    """A kernel may hand over a line and its end in two parts."""
    parts = [new_output("stream", name="stdout", text=text) for text in ("one", "\n", "two\n")]
    blank = [new_output("stream", name="stdout", text="\n")]
    notebook = new_notebook(cells=[new_code_cell("1", outputs=parts), new_code_cell("2", outputs=blank)])
    pages.prepare(notebook)
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert [output.text for output in outputs] == ["one\ntwo\n"]
