"""Recipes: flat YAML files checked by name and type against the notebooks' tagged `parameters` cells.

A notebook declares its keys once, as annotated assignments with a comment each; a recipe only chooses values. This
module reads both and refuses what Papermill would let through: unknown keys and values of another type. It neither
runs a notebook nor knows what a key means, except for paths, which are made absolute, `RANGES`, `CHOICES` and
`LENGTHS`.
"""

import ast
import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from r2ec_lib.data.schema import brief
from r2ec_lib.data.storage import YamlLoader

PIPELINE_KEYS = {"base": "str", "name": "str", "stages": "list[str]", "threads": "int"}
"""Keys that the command line itself reads: CPU threads of a kernel among them, 0 for a number that fits the model."""
COUNTS = range(1, 2**32)
RANGES = dict.fromkeys(
    (
        *("seed", "bazaar_seed", "threads", "lora_r", "lora_layers", "item_steps", "plain_steps", "plain_long_steps"),
        *("test_samples", "student_epochs", "student_histories", "backbone_histories", "drop_samples", "review_cases"),
        *("min_items", "warmup_documents", "warmup_named", "warmup_lm_steps", "warmup_steps", "item_warmup_steps"),
        *("live_negatives", "top_k", "max_completion_length", "teacher_lengths", "taken_away"),
        *("shown_contradictions", "shown_cases", "trials", "writing_steps", "order_seconds"),
    ),
    range(2**32),  # NumPy takes no other seed
)
RANGES |= dict.fromkeys(("causal_samples", "dispersion_draws"), range(2, 2**32))  # two are needed to compare
RANGES |= {
    "max_steps": range(-1, 2**32),
    "student_width": range(0, 2**32, 4),
    "baseline_width": range(2, 2**32, 2),
    "hidden_size": range(4, 2**32, 4),
}
"""Integers that a key takes, or a list of a key; any other key takes `COUNTS`. What is outside would fail a notebook
late, some hours after the start. Widths are those that attention heads can share, a student's that of the tiny
backbone where it has none of its own. The Bazaar's limits are those of `BazaarConfig`, checked when a run begins."""
FLOATS = dict.fromkeys(
    (
        *("learning_rate", "item_rate", "warmup_lm_rate", "student_rate", "student_matrix_rate", "rec_temperature"),
        *("temperature", "epsilon", "epsilon_high", "ab_effects"),
    ),
    "above 0",
)
FLOATS |= dict.fromkeys(
    (
        *("plain_learning_rate", "token_price", "unclosed_price", "untrue_price", "judged_weight", "item_weight"),
        *("beta", "max_grad_norm", "num_train_epochs"),
    ),
    "0 or more",
)
FLOATS |= dict.fromkeys(("reward_mix", "mention_share", "corrupted_share", "kept_fractions", "answer_rate"), "0 to 1")
"""What other numbers have to be, and in `FITS` how that is seen."""
CHOICES = {"source": ("bazaar", "amazon", "logs"), "protocol": ("paper", "official"), "core": ("0core", "5core")}
CHOICES |= {"dtype": ("float32", "bfloat16")}
CHOICES |= dict.fromkeys(
    ("plain_lr_scheduler_type", "plain_long_lr_scheduler_type"), ("constant_with_warmup", "linear", "cosine")
)
"""Words that a key takes, where the notebook would refuse another one late."""
FITS = {"above 0": lambda x: x > 0, "0 or more": lambda x: x >= 0, "0 to 1": lambda x: 0 <= x <= 1}
GROWN = ("grown_items", "grown_histories", "grown_generations", "grown_tokens")
LENGTHS = {"cues": range(2, 3)} | dict.fromkeys(("asked_batches", *GROWN), range(1, 2**32))
"""How many entries a list needs, where not any number will do."""
PLACES = ("run_dir", "cache_dir")
"""Keys that say where a notebook keeps things; no result depends on them."""
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "Literal": Literal}
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RecipeError(ValueError):
    """A recipe, or a notebook's declaration of its keys, that cannot be used; the message names every place."""


@dataclass(frozen=True)
class Parameter:
    """One key as a notebook declares it."""

    name: str
    type: str  # as written: "float", "list[int]", "str | None", "Literal['grpo', 'rloo']"
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

    Raises RecipeError where the cell is missing or holds anything but annotated assignments of literals, one per line.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]  # nbformat takes two seconds to import
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise RecipeError(f'{notebook.name}: {len(tagged)} cells have the tag "parameters", expected one.')
    lines, parameters = tagged[0].splitlines(), {}
    try:
        for node in ast.parse(tagged[0]).body:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
                raise ValueError(f"line {node.lineno} is no annotated assignment (name: type = value  # comment)")
            name, default, kind = node.target.id, ast.literal_eval(node.value), ast.unparse(node.annotation)
            if isinstance(node.annotation, ast.Constant):  # quoted, since nothing imports `Literal` in the cell
                kind = str(node.annotation.value)
            if problem := mismatch(default, kind):
                raise ValueError(f"{name}: {problem}")
            comment = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset :].decode()
            parameters[name] = Parameter(name, kind, default, comment.strip().lstrip("#").strip())
    except (ValueError, SyntaxError) as error:
        raise RecipeError(f"{notebook.name}, parameters cell: {error}.") from error
    return parameters


def declared_in(folder: Path) -> dict[str, dict[str, Parameter]]:
    """The keys of every notebook in `folder` by its stem; a key in two of them must agree in type and default."""
    notebooks = {path.stem: declared(path) for path in sorted(folder.glob("*.ipynb"))}
    if not notebooks:
        raise RecipeError(
            f"{folder} holds no notebooks. r2ec runs the notebooks of a checkout; install it there: "
            "pip install --editable ."
        )
    firsts: dict[str, tuple[str, Parameter]] = {}
    for stem, parameters in notebooks.items():
        for name, parameter in parameters.items():
            other, first = firsts.setdefault(name, (stem, parameter))
            if (first.type, first.default) != (parameter.type, parameter.default):
                raise RecipeError(
                    f"{name}: {other} declares {first.type} = {first.default!r}, {stem} declares "
                    f"{parameter.type} = {parameter.default!r}; they must be the same."
                )
    return notebooks


def load(
    path: Path,
    notebooks: Mapping[str, Mapping[str, Parameter]],
    overrides: Iterable[str] = (),
    name: str | None = None,
) -> Recipe:
    """The recipe at `path` with its bases and the `key=value` overrides merged, checked against `notebooks`.

    Relative paths (keys ending in `_dir` or `_path`, and a `backbone` that is a folder or a .gguf file) are taken from
    the current folder. The default backbone is no folder. Raises RecipeError with one line for each problem.
    """
    kinds = {key: (kind, "the command line") for key, kind in PIPELINE_KEYS.items()}
    for stem, keys in notebooks.items():
        kinds = {key: (parameter.type, stem) for key, parameter in keys.items()} | kinds
    entries, problems = _merged(path, ()), []
    for text in overrides:
        key, value = override(text, {key: kind for key, (kind, _) in kinds.items()})
        entries[key] = (value, f"-p {text}")
    for key, (value, where) in entries.items():
        if key == "run_dir":
            problems.append(f"{where}: run_dir is set by the command line; choose `name` instead.")
        elif key == "base":  # of a file it is merged by now
            problems.append(f"{where}: a base is named in the recipe's file.")
        elif key not in kinds:
            hint = did_you_mean(key, kinds, {key: f" ({stem})" for key, (_, stem) in kinds.items()})
            problems.append(f'{where}: unknown key "{brief(key)}", no notebook declares it.{hint}')
        elif problem := unfit(key, value, kinds[key][0]):
            problems.append(f"{where}: {problem}.")
    values = {key: value for key, (value, _) in entries.items()}
    defaults = {key: parameter.default for keys in notebooks.values() for key, parameter in keys.items()}
    low, high = (values.get(key, defaults.get(key, one)) for key, one in (("rating_min", 0.0), ("rating_max", 1.0)))
    if not problems and low >= high:
        problems.append(f"{path}: rating_min is {low:g}, rating_max {high:g}; expected a smaller and a larger one.")
    name, stages = name or values.pop("name", None) or path.stem, values.pop("stages", None)
    if isinstance(name, str) and not RUN_NAME.fullmatch(name):
        problems.append(f'{path}: name "{name}": use letters, digits, ".", "_" and "-", without a folder.')
    if stages == []:
        problems.append(f"{path}: stages is empty; name one, or leave the key out for the usual ones.")
    if isinstance(stages, list):
        unknown = [one for one in stages if isinstance(one, str) and one not in notebooks]
        problems += [f"{path}: stages: {no_stage(one, notebooks)}" for one in unknown]
    if problems:
        raise RecipeError("\n".join(problems))
    own = ("backbone", defaults.get("backbone"))  # the tiny one, whatever folders lie here
    places = {key: absolute(key, value, Path.cwd()) for key, value in values.items() if (key, value) != own}
    return Recipe(name, values | places, stages)


def is_path(key: str) -> bool:
    """Whether `key` names a local file or folder by its ending."""
    return key.endswith("_dir") or is_file(key)


def is_file(key: str) -> bool:
    """Whether `key` names by its ending what a notebook reads and never makes: a file, or a folder of parts."""
    return key.endswith("_path")


def absolute(key: str, value: Any, folder: Path) -> Any:
    """`value` as an absolute path where `key` names a path, taken from `folder`; anything else as it is."""
    if not (isinstance(value, str) and value):
        return value
    path = folder / os.path.expanduser(value)  # which leaves an unknown ~name as it is
    local = is_path(key) or (key == "backbone" and (path.is_dir() or path.suffix == ".gguf"))
    return str(path.resolve()) if local else value


def given(recipe: Recipe, keys: Mapping[str, Parameter], run: Path) -> dict[str, Any]:
    """What one notebook is given: the recipe's values of the `keys` that it declares, and the run's folder."""
    values = {key: recipe.values[key] for key in keys if key in recipe.values}
    return values | ({"run_dir": str(run.resolve())} if "run_dir" in keys else {})


def as_yaml(recipe: Recipe, notebooks: Mapping[str, Mapping[str, Parameter]], order: Sequence[str]) -> str:
    """The resolved recipe, grouped by the notebook that declares a key first; without paths left at their defaults."""
    head = {"name": recipe.name, "stages": list(order), "threads": recipe.values.get("threads", 0)}
    lines, written = [yaml.safe_dump(head, sort_keys=False).strip()], {"run_dir", *head}
    for stage in order:
        lines.append(f"\n# {stage}")
        for key, parameter in notebooks[stage].items():
            value = recipe.values.get(key, parameter.default)
            if key not in written and not (is_path(key) and value == parameter.default):
                lines.append(yaml.safe_dump({key: value}, allow_unicode=True, width=1000).strip())
                written.add(key)
    return "\n".join(lines) + "\n"


def did_you_mean(name: str, options: Iterable[str], notes: Mapping[str, str] = MappingProxyType({})) -> str:
    """A question that names the option nearest to `name`, with its note; empty where none is near."""
    near = difflib.get_close_matches(name, list(options), n=1)
    return f' Did you mean "{near[0]}"{notes.get(near[0], "")}?' if near else ""


def no_stage(name: str, stages: Iterable[str]) -> str:
    return f'there is no notebook "{name}" ({", ".join(stages)}).{did_you_mean(name, stages)}'


def unfit(key: str, value: Any, kind: str) -> str:
    """What is wrong with `value` for `key`, which is of a `kind`; empty where nothing is."""
    if problem := mismatch(value, kind):
        return f"{key}: {problem}"
    if key in LENGTHS and (size := len(value)) not in (sizes := LENGTHS[key]):
        return f"{key} has {size} entries; expected {sizes[0]}" + " or more" * (len(sizes) > 1)
    if key in CHOICES and value not in CHOICES[key]:
        return f"{key} is {brief(repr(value))}; expected {', '.join(CHOICES[key])}"
    numbers = [one for one in (value if isinstance(value, list) else [value]) if one is not None]
    if key in FLOATS and not all(map(FITS[FLOATS[key]], numbers)):
        return f"{key} is {value}; expected {FLOATS[key]}"
    whole = "int" in re.findall(r"'[^']*'|\w+", kind)  # an option of a Literal keeps its quotes
    fit = RANGES.get(key, COUNTS if whole else None)
    if fit is None or all(number in fit for number in numbers):
        return ""
    return f"{key} is {value}; expected {fit[0]} to {fit[-1]}" + f", a multiple of {fit.step}" * (fit.step > 1)


def mismatch(value: Any, kind: str) -> str:
    """What is wrong with `value` as a `kind` ("float", "list[int]", "str | None"); empty where nothing is.

    An integer is a float too; a truth value is no number.
    """
    try:
        _adapter(kind).validate_python(value, strict=True)
        return ""
    except ValidationError:
        pass
    if isinstance(value, str) and "float" in kind:
        with suppress(ValueError):
            float(value)
            return f"{value} is text in YAML; write a number with a point and a signed exponent, as in 1.0e-4"
    if isinstance(value, dict):
        return f"expected {kind}, found nested keys; recipes are flat"
    if options := re.findall(r"'[^']*'", kind):
        return f"expected one of {', '.join(options)}, found {brief(repr(value))}"
    what = {type(None): "nothing (null)", bool: "a truth value"}.get(type(value), f"{type(value).__name__}")
    return f"expected {kind}, found {what}" + ("" if value is None else f": {brief(repr(value))}")


def _adapter(kind: str) -> TypeAdapter:
    """pydantic's check of a type as a notebook writes it; its names are those of `TYPES`, and nothing is called.

    A float is finite.
    """
    try:
        if any(isinstance(node, ast.Call | ast.Attribute) for node in ast.walk(ast.parse(kind, mode="eval"))):
            raise NameError
        return TypeAdapter(eval(kind, {"__builtins__": {}}, TYPES), config={"allow_inf_nan": False})
    except (NameError, SyntaxError, TypeError):
        raise ValueError(f"{kind} is no type of a recipe key ({', '.join(TYPES)}, … | None)") from None


def _entries(path: Path) -> dict[str, tuple[Any, str]]:
    """Each key of one file with its value and its place ("params/x.yaml line 3")."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe.")
    entries: dict[str, tuple[Any, str]] = {}
    try:
        loader = YamlLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise RecipeError(f"{path}: expected lines `key: value`.")
        for key_node, value_node in root.value if root else ():
            key = str(loader.construct_object(key_node, deep=True))
            where = f"{path} line {key_node.start_mark.line + 1}"
            if key in entries:
                raise RecipeError(f'{where}: "{key}" is repeated, first in {entries[key][1]}.')
            entries[key] = (loader.construct_object(value_node, deep=True), where)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from error
    return entries


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


def override(text: str, kinds: Mapping[str, str]) -> tuple[str, Any]:
    """Key and value of one `-p key=value`; the value is read as YAML and as what its key wants."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"-p {text}: expected key=value.")
    kind = kinds.get(key, "str")
    if kind == "str":  # as it stands, whatever it means in YAML
        return key, raw
    try:
        value = yaml.load(raw, YamlLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"-p {brief(text)}: the value is no valid YAML.") from error
    if kind.startswith("str") and value is not None:
        return key, raw
    if not isinstance(value, bool):  # a truth value is no number
        with suppress(ValidationError):  # left as it is, it is refused with the recipe's other problems
            value = _adapter(kind).validate_python(value, strict=False)
    return key, value
