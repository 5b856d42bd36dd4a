"""A run's report: its executed notebooks as pages that open offline, and an index with the results.

The pages hold no script and ask no server for anything. Only results and notebooks that the run already holds are
read; what is shown of a notebook is in `pages.py`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
import yaml
from nbconvert import HTMLExporter

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json, read_table, whole_folder, write_text
from r2ec_lib.evaluation import wording
from r2ec_lib.workflow import pages
from r2ec_lib.workflow.folder import STAGES, RunFolder

TEMPLATES = Path(__file__).parent / "templates"
SOURCES = {"bazaar": "the Bazaar, a generated market", "amazon": "Amazon Reviews 2023", "logs": "own logs"}
TOLD = ("oracle", "corrected_reasoning", "trained_on_true_reasoning")  # they know the truth: not in the race


def render(run: RunFolder) -> Path:
    """Writes the report of what the run holds and returns its `index.html`; the old report is replaced by a whole one.

    Raises DataError for a run by hand, and for a notebook that was killed while it was written.
    """
    if not run.provenance.is_file():
        raise DataError(
            f"{run.path}: made by hand, so it has no executed notebooks. A report shows those of `r2ec run`."
        )
    order = {stage: number for number, stage in enumerate(STAGES)}
    paths = sorted(run.notebooks.glob("*.ipynb"), key=lambda path: (order.get(path.stem, 0), path.stem))
    recipe = _recipe(run)
    notebooks = [pages.concerning(_executed(path), recipe) for path in paths]
    provenance = read_json(run.provenance)
    titles = [
        pages.first_heading(notebook) or _label(path.stem) for notebook, path in zip(notebooks, paths, strict=True)
    ]
    links = [{"file": "index.html", "label": "Overview", "title": "Overview"}] + [
        {
            "file": f"{path.stem}.html",
            "label": _label(path.stem),
            "title": title,
            "note": "failed; the page ends with the error"
            if pages.has_failed(notebook)
            else _cost(provenance, path.stem),
        }
        for path, title, notebook in zip(paths, titles, notebooks, strict=True)
    ]
    exporter = HTMLExporter(template_name="report", extra_template_basedirs=[str(TEMPLATES)])
    figures: list[dict[str, str]] = []
    with whole_folder(run.report) as fresh:
        for number, (notebook, title) in enumerate(zip(notebooks, titles, strict=True), 1):
            page = _page(run, links, number, title)
            page["contents"] = pages.prepare(notebook)
            html, _ = exporter.from_notebook_node(notebook, {"page": page})
            write_text(html, fresh / page["file"])
            figures += pages.front_figures(notebook, page)
        front = overview(run, _page(run, links, 0, f"Run {run.path.name}"), provenance, figures)
        write_text(front, fresh / run.index.name)
    return run.index


def _executed(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except nbformat.reader.NotJSONError:
        raise DataError(
            f"{path} is no whole notebook; it was being written as the run ended. Run the recipe again."
        ) from None


def overview(
    run: RunFolder,
    page: Mapping[str, Any],
    provenance: Mapping[str, Any],
    figures: Sequence[Mapping[str, str]] = (),
) -> str:
    """The index page: question, results, `figures`, facts; what the run does not hold is left out."""
    results, study, taught = (_json(run.metrics(stage)) for stage in ("evaluation", "study", "student"))
    models = results.get("models", {})
    names = list(dict.fromkeys(name for values in models.values() for name in values if _is_metric(name)))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES / "report"), autoescape=True)
    return environment.get_template("overview.html.j2").render(
        page=page,
        notes=_shared_notes(run),
        summary=wording.summary(models, results.get("baselines", []), _student_hits(taught)),
        metrics=[wording.metric_name(name) for name in names],
        models=_rows(models, names),
        claims=_claims(study.get("claims") or results.get("claims", [])),
        studied=_studied(run, study.get("runs", {})),
        figures=figures,
        facts=_facts(provenance, results.get("counts", {}), _recipe(run)),
        recipe=run.recipe.read_text(encoding="utf-8"),
    )


def _student_hits(taught: Mapping[str, Any]) -> float | None:
    """Hit@5 of the student that is kept beside the model."""
    return taught["models"][taught["chosen"]]["hit@5"] if taught.get("chosen") else None


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _recipe(run: RunFolder) -> dict[str, Any]:
    return (yaml.safe_load(run.recipe.read_text(encoding="utf-8")) if run.recipe.is_file() else None) or {}


def _shared_notes(run: RunFolder) -> list[str]:
    """The notes of a run; those that all its runs share on the page of a study, which has no data of its own."""
    recipe = _recipe(run)
    studied = (
        [] if "source" in recipe else [RunFolder(run.path.parent / name) for name in recipe.get("study_runs", ())]
    )
    first, *others = (_notes(one) for one in studied or [run])
    return [note for note in first if all(note in notes for notes in others)]


def _notes(run: RunFolder) -> list[str]:
    """What a reader must know before believing a figure."""
    recipe, data, training = _recipe(run), _json(run.metrics("data")), _json(run.metrics("training"))
    notes = []
    if data.get("source") == "bazaar":
        notes.append(
            "The purchases are generated: the Bazaar is a made-up market in which the reasons behind each "
            "purchase are known. Results on it show what the method can find, not how well it does on a real market."
        )
    notes += data.get("notes", [])
    if training.get("backbone") == "tiny":
        rules = " It has read the market's general rules; the baselines have not."
        size = f"{training['parameters'] / 1e6:.1f} million parameters"
        notes.append(
            f"The language model is tiny ({size}) and trained here from scratch: a teaching-size stand-in for a "
            "pretrained model." + (rules if data.get("source") == "bazaar" else "")
        )
    if _taught(recipe):
        notes.append(
            "Before RecPO, the language model was taught to write plain analyses of histories, which are made without "
            "the next purchase."
        )
    if recipe.get("untrue_price"):
        notes.append("Statements about the history that fail, or are missing, cost a reasoning part of its reward.")
    if recipe.get("collaborative"):
        notes.append(
            "To the language model's scores a collaborative term is added, which the diagram below leaves out. It "
            "reads the history alone: what is bought together, what shares words, and which item vectors follow which."
        )
    if training and _start_was_best(run):
        notes.append(
            "No validation during RecPO was as good as that of its start. The model is the one with the best "
            "validation after the start."
        )
    return notes


def _taught(recipe: Mapping[str, Any]) -> bool:
    """Whether the backbone learned to write analyses before RecPO: in its warm-up or, with adapters, later."""
    if recipe.get("backbone") == "tiny" and recipe.get("warmup_lm_steps") and recipe.get("warmup_documents"):
        return True
    return bool(recipe.get("lora_r") and (recipe.get("writing_steps") or recipe.get("item_steps")))


def _start_was_best(run: RunFolder) -> bool:
    """Whether the log of a training has a validation of the start, and no later one was as good."""
    log = run.metrics("training").with_name("log.parquet")
    if not log.is_file():
        return False
    valid = read_table(log).set_index("step")["valid_ndcg@10"]
    return 0 in valid and bool(valid.drop(0).max() < valid[0])


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
            wide = wording.claims_table(part)
            model = wording.NAMES.get(part["a"].iloc[0], part["a"].iloc[0])
            rows = list(wide.itertuples(name=None))
            verdict = wording.verdict(part)
            tables.append({"title": title, "model": model, "columns": list(wide), "rows": rows, "verdict": verdict})
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


def _facts(
    provenance: Mapping[str, Any], counts: Mapping[str, Any], recipe: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Name and value of what a reader asks first about a run; what its recipe does not say is left out."""
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
    chosen = []
    if source := recipe.get("source"):
        category = "" if source == "bazaar" else str(recipe.get("category", "")).replace("_", " ")
        chosen.append(("data", ", ".join(filter(None, [SOURCES.get(source, source), category]))))
    if backbone := recipe.get("backbone"):
        chosen.append(("backbone", Path(backbone).name if Path(backbone).is_absolute() else backbone))
    counted = {name.replace("_", " "): value for name, value in counts.items() if isinstance(value, int | float | str)}
    numbers = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in counted.items()]
    return chosen + numbers + facts
