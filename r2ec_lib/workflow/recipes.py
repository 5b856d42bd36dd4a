"""Recipes: flat YAML files checked by name and type against the notebooks' tagged `parameters` cells.

A notebook declares its keys once, as annotated assignments with a comment each; a recipe only chooses values. This
module reads both and refuses what Papermill would let through: unknown keys and values of another type. It neither
runs a notebook nor knows what a key means, except that paths are made absolute.
"""

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

OWN_KEYS = {"base": "str", "name": "str", "stages": "list[str]"}  # of the pipeline; no notebook sees them
ATOMS = {"str": str, "int": int, "float": (int, float), "bool": bool}
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RecipeError(ValueError):
    """A recipe, or a notebook's declaration of its keys, that cannot be used; the message names every place."""


@dataclass(frozen=True)
class Parameter:
    """One key as a notebook declares it."""

    name: str
    type: str  # as written: "float", "list[int]", "str | None"
    default: Any
    comment: str


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: what was chosen (`values`, paths absolute), for which run, through which stages."""

    name: str
    values: dict[str, Any]
    stages: list[str] | None  # None: the usual ones


def declared(notebook: Path) -> dict[str, Parameter]:
    """The keys that the tagged `parameters` cell of `notebook` declares, by name.

    Raises RecipeError where the cell is missing or holds anything but annotated assignments of literals, one a line.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise RecipeError(f'{notebook.name}: {len(tagged)} cells have the tag "parameters", expected one.')
    lines, parameters = tagged[0].splitlines(), {}
    try:
        for node in ast.parse(tagged[0]).body:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
                raise ValueError(f"line {node.lineno} is no annotated assignment (name: type = value  # comment)")
            name, kind, default = node.target.id, ast.unparse(node.annotation), ast.literal_eval(node.value)
            if problem := mismatch(default, kind):
                raise ValueError(f"{name}: {problem}")
            comment = lines[node.end_lineno - 1][node.end_col_offset :].strip().lstrip("#").strip()
            parameters[name] = Parameter(name, kind, default, comment)
    except (ValueError, SyntaxError) as error:
        raise RecipeError(f"{notebook.name}, parameters cell: {error}.") from error
    return parameters


def declared_in(folder: Path) -> dict[str, dict[str, Parameter]]:
    """The keys of every notebook in `folder` by its stem; a key in two of them must agree in type and default."""
    found = {path.stem: declared(path) for path in sorted(folder.glob("*.ipynb"))}
    seen: dict[str, tuple[str, Parameter]] = {}
    for stem, parameters in found.items():
        for name, parameter in parameters.items():
            other, first = seen.setdefault(name, (stem, parameter))
            if (first.type, first.default) != (parameter.type, parameter.default):
                raise RecipeError(
                    f"{name}: {other} declares {first.type} = {first.default!r}, {stem} declares "
                    f"{parameter.type} = {parameter.default!r}; they must be the same."
                )
    return found


def load(
    path: Path,
    notebooks: Mapping[str, Mapping[str, Parameter]],
    overrides: Iterable[str] = (),
    name: str | None = None,
    folder: Path | None = None,
) -> Recipe:
    """The recipe at `path` with its bases and the `key=value` overrides merged, checked against `notebooks`.

    Relative paths (keys ending in `_dir` or `_path`, and a `backbone` that is a folder) are taken from `folder`, the
    current folder where it is None. Raises RecipeError with one line for each problem.
    """
    known = {key: (kind, "the pipeline") for key, kind in OWN_KEYS.items()}
    for stem, keys in notebooks.items():
        known = {key: (parameter.type, stem) for key, parameter in keys.items()} | known
    entries, problems = _merged(path, ()), []
    for text in overrides:
        key, value = _override(text, {key: kind for key, (kind, _) in known.items()})
        entries[key] = (value, f"-p {text}")
    for key, (value, where) in entries.items():
        if key == "run_dir":
            problems.append(f"{where}: run_dir is set by the pipeline; choose `name` instead.")
        elif key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f' Did you mean "{near[0]}" ({known[near[0]][1]})?' if near else ""
            problems.append(f'{where}: unknown key "{key}", no notebook declares it.{hint}')
        elif problem := mismatch(value, known[key][0]):
            problems.append(f"{where}: {key}: {problem}.")
    values = {key: value for key, (value, _) in entries.items()}
    name, stages = name or values.pop("name", None) or path.stem, values.pop("stages", None)
    if isinstance(name, str) and not RUN_NAME.fullmatch(name):
        problems.append(f'{path}: name "{name}": use letters, digits, ".", "_" and "-", without a folder.')
    if isinstance(stages, list):
        unknown = [stage for stage in stages if stage not in notebooks]
        problems += [f'{path}: stages: there is no notebook "{s}" ({", ".join(notebooks)}).' for s in unknown]
    if problems:
        raise RecipeError("\n".join(problems))
    folder = folder or Path.cwd()
    return Recipe(name, {key: absolute(key, value, folder) for key, value in values.items()}, stages)


def is_path(key: str) -> bool:
    """Whether `key` names a local file or folder by its ending."""
    return key.endswith(("_dir", "_path"))


def is_runs(key: str) -> bool:
    """Whether `key` names other runs, by their folders' names, by its ending."""
    return key.endswith("_runs")


def absolute(key: str, value: Any, folder: Path) -> Any:
    """`value` as an absolute path where `key` names a path, taken from `folder`; anything else as it is."""
    if isinstance(value, str) and value and (is_path(key) or (key == "backbone" and (folder / value).is_dir())):
        return str((folder / Path(value).expanduser()).resolve())
    return value


def mismatch(value: Any, kind: str) -> str:
    """What is wrong with `value` as a `kind` ("float", "list[int]", "str | None"); empty where nothing is.

    An integer is a float too; a truth value is no number.
    """
    options = [option.strip() for option in kind.split("|")]
    if any(_matches(value, option) for option in options):
        return ""
    if isinstance(value, str) and _number(value) is not None and "float" in kind:
        return f"{value} is text in YAML; write {_yaml_float(value)} (expected {kind})"
    if isinstance(value, dict):
        return f"expected {kind}, found nested keys; recipes are flat"
    found = {type(None): "nothing (null)", bool: "a truth value"}.get(type(value), f"{type(value).__name__}")
    return f"expected {kind}, found {found}" + ("" if value is None else f": {value!r}")


def _matches(value: Any, option: str) -> bool:
    if option == "None":
        return value is None
    if option.startswith("list[") and option.endswith("]"):
        return isinstance(value, list) and all(_matches(one, option[5:-1]) for one in value)
    if option not in ATOMS:
        raise ValueError(f"{option} is no type of a recipe key (str, int, float, bool, list[…] of them, … | None)")
    return isinstance(value, ATOMS[option]) and (option == "bool" or not isinstance(value, bool))


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) else None


def _yaml_float(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}e{int(exponent):+d}" if exponent else mantissa


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a date stays text, as Papermill reads it."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _entries(path: Path) -> dict[str, tuple[Any, str]]:
    """Each key of one file with its value and its place ("params/x.yaml line 3")."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe.")
    found: dict[str, tuple[Any, str]] = {}
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise RecipeError(f"{path}: expected lines `key: value`.")
        for key_node, value_node in root.value if root else ():
            key, where = loader.construct_object(key_node), f"{path} line {key_node.start_mark.line + 1}"
            if key in found:
                raise RecipeError(f'{where}: "{key}" stands twice, first in {found[key][1]}.')
            found[str(key)] = (loader.construct_object(value_node, deep=True), where)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from error
    return found


def _merged(path: Path, above: tuple[Path, ...]) -> dict[str, tuple[Any, str]]:
    """The entries of `path` over those of its base; `name` and `base` are not inherited."""
    if path.resolve() in above:
        raise RecipeError(f"{path}: its base leads back to itself.")
    entries = _entries(path)
    base, where = entries.pop("base", (None, ""))
    if base is None:
        return entries
    if not isinstance(base, str):
        raise RecipeError(f"{where}: base: {mismatch(base, 'str')}.")
    inherited = _merged(path.parent / base, (*above, path.resolve()))
    inherited.pop("name", None)
    return {**inherited, **entries}


def _override(text: str, kinds: Mapping[str, str]) -> tuple[str, Any]:
    """Key and value of one `-p key=value`; the value is read as YAML and as what its key wants."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"-p {text}: expected key=value.")
    kind = kinds.get(key, "")
    try:
        value = yaml.load(raw, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"-p {text}: the value is no valid YAML.") from error
    if isinstance(value, str) and kind.startswith("float") and _number(value) is not None:
        return key, float(value)
    if isinstance(value, list) and "list[float]" in kind:
        return key, [float(one) if isinstance(one, str) and _number(one) is not None else one for one in value]
    if kind == "str" or (kind.startswith("str") and value is not None):
        return key, raw.strip()
    return key, value
