"""An executed notebook as a page of a report: what a reader needs of it, cleaned.

Markdown is rendered, mathematics becomes MathML, and whatever a notebook shows passes through an allow-list, since
item texts are foreign. Nothing is computed here.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape, unescape
from itertools import compress
from typing import Any

import bleach
import latex2mathml.converter
import nbformat
from bleach.css_sanitizer import CSSSanitizer
from bs4 import BeautifulSoup
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat.v4 import new_markdown_cell
from papermill.execute import ERROR_MARKER_TAG

SHOWN = ("text/html", "image/png", "text/plain")  # the first that an output has
SUMMARIES = {"parameters": "Parameters and their defaults", "injected-parameters": "Parameters of this run"}
TAGS = frozenset(
    "table thead tbody tfoot tr th td caption colgroup col figure figcaption img div span p br hr b i strong em u s "
    "sub sup code pre small mark ul ol li dl dt dd h2 h3 h4 h5 h6 details summary blockquote a".split()
)
ONLY = "only:"
"""Begins the tag of a cell that concerns some runs alone: "only:source=bazaar", "only:source=amazon|logs"."""
FRONT = "overview"
"""Tags a cell whose figures also stand on the first page, with the text below them."""
MATHML = "http://www.w3.org/1998/Math/MathML"
LOOKS = {"color", "background-color", "font-weight", "font-style", "text-align", "width", "max-width", "white-space"}
FIGURE = r"[+−-]?[\d.,]+(e[+-]?\d+)?( ?%)?"
INTERVAL = rf"(† )?{FIGURE}(\s*\({FIGURE} to {FIGURE}\))?"
NUMBER = re.compile(rf"({INTERVAL}(\s+{INTERVAL})?)?|[–-]|nan|inf|[\d: +T-]+", re.IGNORECASE)
PLOT_TITLE = re.compile(r'title\("([^"]+)"')  # as the code of a cell writes it
LOADS = re.compile(r"url|image|import|expression|http|//|[\\<@]", re.IGNORECASE)  # what could fetch, in a style sheet


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
            cell.metadata["section"] = heading
            cell.outputs = [shown for output in cell.outputs if (shown := _shown(output))]
            CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)  # as a terminal would leave them
            cell.outputs = [output for output in cell.outputs if output.get("text", "shown").strip()]
    notebook.cells = _joined(notebook.cells)
    return [entry for entry in renderer.headings if entry["level"] == 2]


def front_figures(notebook: nbformat.NotebookNode, page: Mapping[str, Any]) -> list[dict[str, str]]:
    """Figures of a prepared notebook for the first page: the section that they stand in, png and alt, the text below
    them, and the page that they are from."""
    figures, page_of = [], {"file": page["file"], "page": page["title"]}
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], new_markdown_cell()], strict=True):
        if FRONT in cell.metadata.get("tags", []):
            told = {"title": cell.metadata["section"], "alt": cell.metadata["alt"], **page_of}
            told["text"] = below.metadata.get("html", "")
            pictures = [output.get("data", {}).get("image/png") for output in cell.outputs]
            figures += [{**told, "png": picture} for picture in pictures if picture]
    return figures


def first_heading(notebook: nbformat.NotebookNode) -> str:
    """The notebook's first heading of the first level; "" without one."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    first = next((match for text in texts if (match := re.search(r"^# (.+)$", text, re.MULTILINE))), None)
    return first[1].strip() if first else ""


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
        return output if output.name == "stdout" else None
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


def _is_error(cell: nbformat.NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", ()))
