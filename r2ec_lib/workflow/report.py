"""A run's report: its executed notebooks as pages that open offline, and an index with the results.

The pages hold no script and ask no server for anything: pictures are embedded, mathematics becomes MathML, and
whatever a notebook shows passes through an allow-list, since item texts are foreign. Only tables and notebooks that
the run already holds are read; nothing is computed here but the learning curve's picture.
"""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from html import escape, unescape
from itertools import compress
from pathlib import Path
from typing import Any

import bleach
import jinja2
import latex2mathml.converter
import nbformat
import pandas as pd
import yaml
from bleach.css_sanitizer import CSSSanitizer
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from papermill.execute import ERROR_MARKER_TAG

from r2ec_lib import plots
from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json, whole_folder, write_text
from r2ec_lib.evaluation import wording
from r2ec_lib.workflow.folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"

SHOWN = ("text/html", "image/png", "text/plain")  # the first that an output has
SUMMARIES = {"parameters": "Parameters and their defaults", "injected-parameters": "Parameters of this run"}
TAGS = frozenset(
    "table thead tbody tfoot tr th td caption colgroup col figure figcaption img div span p br hr b i strong em u s "
    "sub sup code pre small mark ul ol li dl dt dd h2 h3 h4 h5 h6 details summary blockquote a".split()
)
TOLD = ("oracle", "corrected_reasoning", "trained_on_true_reasoning")  # they know the truth: not in the race
ONLY = "only:"
"""Begins the tag of a cell that concerns some runs alone: "only:source=bazaar", "only:source=amazon|logs"."""
MATHML = "http://www.w3.org/1998/Math/MathML"
LOOKS = {"color", "background-color", "font-weight", "font-style", "text-align", "width", "max-width", "white-space"}
FIGURE = r"[+−-]?[\d.,]+(e[+-]?\d+)?( ?%)?"
INTERVAL = rf"(† )?{FIGURE}(\s*\({FIGURE} to {FIGURE}\))?"
NUMBER = re.compile(rf"({INTERVAL}(\s+{INTERVAL})?)?|[–-]|nan|inf|[\d: +T-]+", re.IGNORECASE)
PLOT_TITLE = re.compile(r'title\("([^"]+)"')  # as the code of a cell writes it
LOADS = re.compile(r"url|image|import|expression|http|//|[\\<@]", re.IGNORECASE)  # what could fetch, in a style sheet


def render(run: RunFolder) -> Path:
    """Writes the report of what the run holds and returns its `index.html`; the old report is replaced by a whole one.

    Raises DataError for a run by hand.
    """
    if not run.provenance.is_file():
        raise DataError(
            f"{run.path}: made by hand, so it has no executed notebooks. A report shows those of `r2ec run`."
        )
    paths = sorted(run.notebooks.glob("*.ipynb"))
    recipe = yaml.safe_load(run.recipe.read_text(encoding="utf-8")) or {}
    notebooks = [concerning(nbformat.read(path, as_version=4), recipe) for path in paths]
    provenance = read_json(run.provenance)
    titles = [_title(notebook, path.stem) for notebook, path in zip(notebooks, paths, strict=True)]
    links = [{"file": "index.html", "label": "Overview", "title": "Overview"}] + [
        {
            "file": f"{path.stem}.html",
            "label": _label(path.stem),
            "title": title,
            "note": "failed; the page ends with the error" if has_failed(notebook) else _cost(provenance, path.stem),
        }
        for path, title, notebook in zip(paths, titles, notebooks, strict=True)
    ]
    exporter = HTMLExporter(template_name="report", extra_template_basedirs=[str(TEMPLATES)])
    with whole_folder(run.report) as fresh:
        for number, (notebook, title) in enumerate(zip(notebooks, titles, strict=True), 1):
            page = _page(run, links, number, title)
            page["contents"] = prepare(notebook)
            html, _ = exporter.from_notebook_node(notebook, {"page": page})
            write_text(html, fresh / page["file"])
        write_text(overview(run, _page(run, links, 0, f"Run {run.path.name}"), provenance), fresh / run.index.name)
    return run.index


def concerning(notebook: nbformat.NotebookNode, recipe: Mapping[str, Any]) -> nbformat.NotebookNode:
    """`notebook`, in place, without the cells whose tags say that they concern runs of another recipe.

    A tag "only:key=value", with "|" between several values, leaves a cell to the runs whose recipe has one of the
    values under the key, "only:key!=value" to those that have none of them; a recipe without the key keeps it. So does
    an error, which must be seen.
    """

    def concerns(cell: nbformat.NotebookNode) -> bool:
        rules = [tag[len(ONLY) :].split("=", 1) for tag in cell.metadata.get("tags", []) if tag.startswith(ONLY)]
        rules = [(key.removesuffix("!"), values.split("|"), key.endswith("!")) for key, values in rules]
        return all((str(recipe[key]) in values) != unlike for key, values, unlike in rules if key in recipe)

    notebook.cells = [cell for cell in notebook.cells if concerns(cell) or _is_error(cell)]
    return notebook


def has_failed(notebook: nbformat.NotebookNode) -> bool:
    """Whether an executed notebook ended with an error."""
    return any(_is_error(cell) for cell in notebook.cells)


def prepare(notebook: nbformat.NotebookNode) -> list[dict[str, str]]:
    """Makes `notebook` fit to be shown, in place, and returns its table of contents (id and text of each heading).

    Markdown is rendered; outputs keep their best form, cleaned. Standard error, widgets and scripts are dropped, and
    what follows an error, too, as it did not run. Code that shows nothing is joined to the code after it.
    """
    renderer = _Renderer()
    heading = ""
    notebook.cells = [cell for cell in notebook.cells if ERROR_MARKER_TAG not in cell.metadata.get("tags", [])]
    failed = next((index for index, cell in enumerate(notebook.cells) if _is_error(cell)), len(notebook.cells))
    notebook.cells = notebook.cells[: failed + 1]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.metadata["html"] = MarkdownWithMath(renderer=renderer).render(cell.source)
            heading = renderer.headings[-1]["text"] if renderer.headings else ""
        elif cell.cell_type == "code":
            tags = cell.metadata.get("tags", [])
            cell.metadata["summary"] = next((SUMMARIES[tag] for tag in tags if tag in SUMMARIES), "Code")
            titles = "; ".join(PLOT_TITLE.findall(cell.source)) or heading
            cell.metadata["alt"] = f"Plot: {titles}" if titles else "Plot"
            cell.outputs = [shown for output in cell.outputs if (shown := _shown(output))]
            CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)  # as a terminal would leave them
    notebook.cells = _joined(notebook.cells)
    return [entry for entry in renderer.headings if entry["level"] == 2]


def overview(run: RunFolder, page: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The index page: question, results, learning curve, facts; what the run does not hold is left out."""
    results, study = (_json(run.metrics(stage)) for stage in ("evaluation", "study"))
    models = results.get("models", {})
    names = list(dict.fromkeys(name for values in models.values() for name in values if _is_metric(name)))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES / "report"), autoescape=True)
    return environment.get_template("overview.html.j2").render(
        page=page,
        notes=_notes(_json(run.metrics("data")), _json(run.metrics("training"))),
        metrics=[wording.metric_name(name) for name in names],
        models=_rows(models, names),
        claims=_claims(study.get("claims") or results.get("claims", [])),
        studied=_studied(run, study.get("runs", {})),
        curve=_curve(run.log),
        facts=_facts(provenance, results.get("counts", {})),
        recipe=run.recipe.read_text(encoding="utf-8"),
    )


def sanitise(html: str) -> str:
    """`html` reduced to an allow-list: no script, no event handler, nothing that loads from elsewhere.

    Of style sheets only a pandas Styler's own rules (selectors `#T_…`) are kept, of pictures only embedded ones.
    """
    rules = [
        f"{selector.strip()} {{{body}}}"
        for sheet in re.findall(r"<style[^>]*>(.*?)</style\s*>", html, re.DOTALL | re.IGNORECASE)
        for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet)
        if all(one.strip().startswith("#T_") for one in selector.split(",")) and not LOADS.search(selector + body)
    ]
    bare = re.sub(r"<(style|script)\b.*?</\1\s*>", "", html, flags=re.DOTALL | re.IGNORECASE)
    clean = bleach.clean(
        bare,
        tags=TAGS,
        attributes=_allowed,
        protocols={"data"},
        css_sanitizer=CSSSanitizer(allowed_css_properties=LOOKS),
        strip=True,
        strip_comments=True,
    )
    clean = re.sub(r"<img(?![^>]* src=)[^>]*>", "", clean)
    return "\n".join(["<style>", *rules, "</style>", clean]) if rules else clean


def aligned(html: str) -> str:
    """`html` with the columns of its tables that hold words marked by the class "words", to be set flush left."""
    soup = BeautifulSoup(html, "html.parser")
    for table in soup.find_all("table"):
        rows = [row.find_all(["th", "td"]) for row in table.find_all("tr")]
        body = [any(cell.name == "td" for cell in row) for row in rows]
        if table.find(["th", "td"], colspan=True) or len({len(row) for row in rows}) > 1:
            continue  # cells that span others have no column of their own
        for column in zip(*rows, strict=True):
            if any(not NUMBER.fullmatch(cell.get_text(strip=True)) for cell in compress(column, body)):
                for cell in column:
                    cell["class"] = [*cell.get("class", []), "words"]
    return str(soup)


class _Renderer(IPythonRenderer):
    """Markdown to HTML: raw HTML is escaped, mathematics is MathML, headings are anchors, pictures are their text."""

    def __init__(self) -> None:
        super().__init__(escape=True, allow_harmful_protocols=False)
        self.headings: list[dict[str, Any]] = []

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        plain = unescape(re.sub(r"<[^>]+>", "", text))
        slug = re.sub(r"[^\w]+", "-", plain.lower()).strip("-") or "section"
        repeats = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", entry["id"]) is not None for entry in self.headings)
        slug = f"{slug}-{repeats + 1}" if repeats else slug
        self.headings.append({"id": slug, "text": plain, "level": level})
        anchor = f'<a class="anchor" href="#{slug}" aria-label="Link to this section">#</a>'
        return f'<h{level} id="{slug}">{text}{anchor}</h{level}>\n'

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return f"<em>{escape(text)}</em>"  # a picture from elsewhere would be a request to a server


def _joined(cells: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """`cells` with each silent code cell put before the code cell that follows it, to be unfolded together."""
    joined: list[nbformat.NotebookNode] = []
    for cell in cells:
        pair = [*joined[-1:], cell]
        foldable = all(one.cell_type == "code" and one.metadata.summary == "Code" for one in pair)
        if len(pair) == 2 and foldable and not pair[0].outputs:
            cell.source = f"{joined.pop().source}\n\n{cell.source}"
        joined.append(cell)
    return joined


def _mathml(latex: str, display: str) -> str:
    try:
        return latex2mathml.converter.convert(latex.strip(), display=display).replace(f' xmlns="{MATHML}"', "")
    except Exception:  # the converter's errors have no common base; the formula is then shown as it was written
        return f"<code>{escape(latex)}</code>"


def _shown(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """`output` in its best form and cleaned, or None where it is not for a reader."""
    if output.output_type == "stream":
        output["text"] = strip_ansi(output.text)
        return output if output.name == "stdout" and output.text.strip() else None
    if output.output_type == "error":
        output["traceback"] = [strip_ansi(line) for line in output.traceback]
        return output
    if any("widget" in kind or "javascript" in kind for kind in output.data):
        return None
    kind = next((kind for kind in SHOWN if kind in output.data), None)
    if kind is None:
        return None
    content = output.data[kind]
    if kind == "text/html":
        content = aligned(sanitise(content))
    elif kind == "image/png":
        content = re.sub(r"[^A-Za-z0-9+/=]", "", content)
    else:
        content = strip_ansi(content)
    output["data"] = {kind: content}
    return output


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "src":
        return tag == "img" and value.startswith("data:image/")
    if name == "href":
        return value.startswith("#")
    return name in {"id", "class", "style", "alt", "colspan", "rowspan", "scope", "span", "open"}


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _notes(data: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing a figure."""
    notes = []
    if data.get("source") == "bazaar":
        notes.append(
            "The purchases of this run are generated: the Bazaar is a made-up market in which the reasons behind each "
            "purchase are known. Its figures say what the method can find, not how well it does on a real market."
        )
    if training.get("backbone") == "tiny":
        rules = " It has read the market's general rules, the baselines have not."
        notes.append(
            f"The language model is a tiny one of {training['parameters'] / 1e6:.1f} million parameters, trained here "
            "from scratch: a teaching-size stand-in for a pretrained model."
            + (rules if data.get("source") == "bazaar" else "")
        )
    return notes


def _is_error(cell: nbformat.NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", ()))


def _title(notebook: nbformat.NotebookNode, stem: str) -> str:
    """The notebook's first heading, or its name."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    first = next((match for text in texts if (match := re.search(r"^# (.+)$", text, re.MULTILINE))), None)
    return first[1].strip() if first else _label(stem)


def _label(stem: str) -> str:
    return re.sub(r"^\d+_", "", stem).replace("_", " ").capitalize()


def _cost(provenance: Mapping[str, Any], stem: str) -> str:
    cost = provenance["stages"].get(stem)
    return f"{_time(cost['seconds'])}, {cost['peak_memory_gb']:.1f} GB" if cost else ""


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _page(run: RunFolder, links: Sequence[Mapping[str, str]], number: int, title: str) -> dict[str, Any]:
    return {
        "title": title,
        "run": run.path.name,
        "file": links[number]["file"],
        "links": links,
        "before": links[number - 1] if number else None,
        "after": links[number + 1] if number + 1 < len(links) else None,
    }


def _is_metric(name: str) -> bool:
    return re.fullmatch(r"(hit|ndcg)@\d+", name) is not None


def _claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The headline as tables, one per variant of a study."""
    claims, tables = pd.DataFrame(rows), []
    for title, part in claims.groupby("variant", sort=False) if "variant" in claims else [("", claims)]:
        if len(part):
            wide = wording.claims_table(part, wording.HEADLINE)
            tables.append({"title": title, "columns": list(wide), "rows": list(wide.itertuples(name=None))})
    return tables


def _studied(run: RunFolder, variants: Mapping[str, str]) -> list[dict[str, str]]:
    """Name, variant and, where there is one, the report of each run of a study, as seen from this run's report."""
    indexes = {name: RunFolder(run.path.parent / name).index for name in variants}
    pages = {name: os.path.relpath(index, run.report) if index.is_file() else "" for name, index in indexes.items()}
    return [{"name": name, "variant": variants[name], "page": page} for name, page in pages.items()]


def _rows(models: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The headline table: one row per model, the best of each column marked, the oracle not in the race."""
    racing = [values for model, values in models.items() if model not in TOLD]
    best = {name: max((v[name] for v in racing if v.get(name) is not None), default=None) for name in names}
    return [
        {
            "name": wording.NAMES.get(model, model),
            "cells": [
                {"text": _decimal(values.get(name)), "best": model not in TOLD and values.get(name) == best[name]}
                for name in names
            ],
        }
        for model, values in models.items()
    ]


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _curve(path: Path) -> str | None:
    if not path.is_file():
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    plots.learning_curve(pd.read_parquet(path), figure.subplots())
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=160)
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"


def _facts(provenance: Mapping[str, Any], counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what a reader asks first about a run."""
    cost = provenance["stages"].values()
    commit = provenance["commit"] or "not under version control"
    versions = provenance["versions"]
    facts = [
        ("started", provenance["started"].replace("T", " ").replace("+00:00", " UTC")),
        ("duration", _time(sum(one["seconds"] for one in cost))),
        ("peak memory", f"{max((one['peak_memory_gb'] for one in cost), default=0):.1f} GB"),
        ("seed", str(provenance["seed"])),
        ("code", commit[:12] + (" with uncommitted changes" if provenance["uncommitted_changes"] else "")),
        ("machine", f"{provenance['cpu']}, {provenance['cores']} cores, {provenance['memory_gb']:.0f} GB"),
        ("accelerator", ", ".join(provenance["gpu"]) or "none"),
        ("software", ", ".join([f"Python {provenance['python']}", *(f"{k} {v}" for k, v in versions.items())])),
    ]
    counted = {name.replace("_", " "): value for name, value in counts.items() if isinstance(value, int | float | str)}
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in counted.items()] + facts
