"""What a recipe may say, what is refused and in which words."""

import json
import re

import nbformat
import pytest
import yaml
from workflow.toy import load, notebook

from r2ec_lib.workflow import recipes, runner


def refused(world, text: str, *overrides: str) -> str:
    with pytest.raises(recipes.RecipeError) as caught:
        load(world, text, *overrides)
    return str(caught.value)


def test_an_unknown_key_names_the_nearest_one_and_its_notebook(world):
    message = refused(world, "# data\nfactr: 3.0\n")
    assert "toy.yaml line 2" in message and '"factor" (02_second)' in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rate: 1e-4", "1e-4 is text in YAML; write a number with a point and a signed exponent, as in 1.0e-4"),
        ("rows: 3.5", "expected int, found float: 3.5"),
        ("rows: 010", "expected int, found str: '010'"),
        ("rate: 1:30", "expected float, found str: '1:30'"),
        ("rows: true", "expected int, found a truth value"),
        ("rate: true", "expected float, found a truth value"),
        ("fail: 1", "expected bool, found int: 1"),
        ("ks: 5", "expected list[int], found int: 5"),
        ("ks: [5, x]", "expected list[int], found list"),
        ("rate:", "expected float, found nothing (null)"),
        ("rate: {a: 1}", "recipes are flat"),
        ("rate: .nan", "expected float, found float: nan"),
        ("rate: .inf", "expected float, found float: inf"),
        ("threads: -1", "threads is -1; expected 0 to 4294967295"),
        ("[1, 2]: 3", 'unknown key "[1, 2]"'),
        ("run_dir: elsewhere", "set by the command line"),
        ("estimator: grop", "expected one of 'grpo', 'rloo', found 'grop'"),
        ("rows: 1\nrows: 2", '"rows" is repeated, first in toy.yaml line 1'),
        ("rows: [1", "no valid YAML"),
        ("- 1", "expected lines"),
        ("name: ../up", "without a folder"),
        ("name: up/there", "without a folder"),
        ("stages: [03_third]", 'no notebook "03_third"'),
        ("stages: [01_frist]", 'Did you mean "01_first"?'),
        ("stages: [1, [a]]", "stages: expected list[str], found list: [1, ['a']]"),
        ("stages: []", "stages is empty; name one"),
        ("base: toy.yaml", "leads back to itself"),
        ("base: none.yaml", "no such recipe"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_reason(world, text, told):
    assert told in refused(world, text)


def test_all_problems_of_a_recipe_are_told_at_once(world):
    assert len(refused(world, "rows: x\nrate: x\nnothing: 1").splitlines()) == 3


def test_a_recipe_nested_thousands_deep_is_no_valid_yaml(world):
    deep = "[" * 5000 + "]" * 5000
    assert "toy.yaml: no valid YAML" in refused(world, f"ks: {deep}")
    assert "the value is no valid YAML" in refused(world, "", f"ks={deep}")


def test_a_value_of_any_length_leaves_a_message_of_one_line(world):
    assert len(refused(world, f"rows: {'x' * 10**6}")) < 200


def test_types_that_fit_are_taken(world):
    values = load(world, "rate: 1\nks: [1, 2]\nlimit: null\nfail: yes\nsource_path: 2024-01-01\n").values
    assert values["rate"] == 1 and values["limit"] is None and values["fail"] is True
    assert values["source_path"] == str(world / "2024-01-01")  # a date stays text


def test_what_is_typed_on_the_command_line_is_read_as_its_key_wants(world):
    recipe = load(world, "", "rate=1e-4", "ks=[1, 2]", "source_path=7", "limit=2")
    assert recipe.values == {"rate": 1e-4, "ks": [1, 2], "source_path": str(world / "7"), "limit": 2}
    assert load(world, "", "rows=010").values == {"rows": 10}  # decimal, as it looks
    assert "expected int, found str" in refused(world, "", "rows=many")
    assert "expected float, found str: '1:30'" in refused(world, "", "rate=1:30")
    assert "expected int, found a truth value: True" in refused(world, "", "rows=true")
    assert "expected key=value" in refused(world, "", "rows")


def test_a_recipe_overrides_its_base_and_does_not_inherit_its_name(world):
    (world / "base").mkdir()
    (world / "base" / "base.yaml").write_text("name: base\nrows: 1\nrate: 0.1\n")
    recipe = load(world, "base: base/base.yaml\nrows: 2\n")
    assert recipe.values == {"rows": 2, "rate": 0.1} and recipe.name == "toy"
    (world / "base" / "above.yaml").write_text("base: base.yaml\n")  # a base lies beside the recipe that names it
    assert load(world, "base: base/above.yaml\n").values == {"rows": 1, "rate": 0.1}


@pytest.mark.parametrize("declaration", ["int = 4", "float = 3"])
def test_notebooks_must_agree_on_a_key_they_share(world, declaration):
    notebook(world / "notebooks" / "03_third.ipynb", f"rows: {declaration}  # rows")
    with pytest.raises(
        recipes.RecipeError, match=rf"rows: 01_first declares int = 3, 03_third declares {declaration}"
    ):
        recipes.declared_in(world / "notebooks")


@pytest.mark.parametrize(
    "cell",
    ["rows = 3", "rows: int = 3.0", "rows: dict = 3", "rows: int = len([])", "rows: int.__base__ = 3", "print(1)"],
)
def test_a_parameters_cell_holds_annotated_literals_only(world, cell):
    notebook(world / "notebooks" / "03_third.ipynb", cell)
    with pytest.raises(recipes.RecipeError, match=r"03_third\.ipynb, parameters cell"):
        recipes.declared_in(world / "notebooks")


def test_a_declaration_keeps_its_comment(world):
    assert recipes.declared(world / "notebooks" / "01_first.ipynb")["rate"] == recipes.Parameter(
        "rate", "float", 0.5, "learning rate"
    )


@pytest.mark.parametrize("tagged", [0, 2])
def test_a_notebook_has_one_parameters_cell(world, tagged):
    path = world / "notebooks" / "03_third.ipynb"
    tags = {"tags": ["parameters"]}
    cells = [nbformat.v4.new_code_cell("a: int = 1  # a", metadata=tags) for _ in range(tagged)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(recipes.RecipeError, match=f'{tagged} cells have the tag "parameters", expected one'):
        recipes.declared(path)


@pytest.mark.parametrize(
    ("key", "wrong", "expected", "right"),
    [
        ("seed", (-1, 2**32), "0 to 4294967295", (0, 2**32 - 1)),
        ("workers", (0, -1), "1 to 4294967295", (1, 3)),
        ("student_width", (-4, 30), "0 to 4294967292, a multiple of 4", (0, 64)),
        ("baseline_width", (0, 33), "2 to 4294967294, a multiple of 2", (2, 34)),
        ("max_steps", (-2,), "-1 to 4294967295", (-1, 0)),
        ("max_item_words", (-5, 0), "1 to 4294967295", (1,)),
        ("rec_temperature", (0.0, -1.0), "above 0", (0.02, 48)),
        ("plain_learning_rate", (-1.0,), "0 or more", (0.0, 0.003)),
        ("answer_rate", (-0.1, 1.5), "0 to 1", (0.0, 1)),
        ("epsilon_high", (0.0,), "above 0", (0.28, None)),
        ("grown_items", ([5, 0],), "1 to 4294967295", ([5],)),
        ("some_new_count", (0, -1), "1 to 4294967295", (1, None)),
        ("teacher_lengths", ([0, -5],), "0 to 4294967295", ([0, 5], [])),
        ("kept_fractions", ([0.5, 2.0],), "0 to 1", ([0.0, 1.0],)),
    ],
)
def test_a_number_that_a_notebook_would_stumble_over_late_is_refused_at_once(world, key, wrong, expected, right):
    listed = isinstance(wrong[0], list)
    kind = type(wrong[0][0] if listed else wrong[0]).__name__
    kind = f"list[{kind}]" if listed else kind
    notebook(world / "notebooks" / "03_third.ipynb", f"{key}: {kind} | None = None  # a number")
    for value in wrong:
        assert f"toy.yaml line 1: {key} is {value}; expected {expected}." in refused(world, f"{key}: {value}")
    for value in right:
        assert load(world, f"{key}: {json.dumps(value)}").values[key] == value


@pytest.mark.parametrize(
    ("key", "kind", "wrong", "expected", "right"),
    [
        ("cues", "str", (["x"], ["x", "y", "z"]), "2", ["x", "y"]),
        ("grown_items", "int", ([],), "1 or more", [5]),
        ("grown_tokens", "int", ([],), "1 or more", [5, 7]),
        ("teacher_lengths", "int", (), "", []),
    ],
)
def test_a_list_that_is_too_short_or_too_long_for_its_notebook_is_refused_at_once(
    world, key, kind, wrong, expected, right
):
    """Otherwise the notebook fails when all that takes long is done."""
    notebook(world / "notebooks" / "03_third.ipynb", f"{key}: list[{kind}] = {right}  # a list")
    for value in wrong:
        told = f"toy.yaml line 1: {key} has {len(value)} entries; expected {expected}."
        assert told in refused(world, f"{key}: {json.dumps(value)}")
    assert load(world, f"{key}: {json.dumps(right)}").values[key] == right


def test_a_rating_scale_whose_ends_are_exchanged_is_refused(world):
    notebook(world / "notebooks" / "03_third.ipynb", "rating_min: float = 1.0  # low\nrating_max: float = 5.0  # high")
    for text in ("rating_min: 5", "rating_max: 1", "rating_min: 9\nrating_max: 3.5"):
        assert "expected a smaller and a larger one" in refused(world, text)
    assert load(world, "rating_min: 9\nrating_max: 10").values["rating_max"] == 10


def test_an_option_that_is_called_like_a_type_has_no_range(world):
    notebook(world / "notebooks" / "03_third.ipynb", """kind: "Literal['int', 'bool']" = "int"  # one of two""")
    assert load(world, "kind: int").values["kind"] == "int"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("plain_lr_scheduler_type=lineer", "'lineer'; expected constant_with_warmup, linear, cosine."),
        ("protocol=papr", "protocol is 'papr'; expected paper, official."),
        ("core=7core", "core is '7core'; expected 0core, 5core."),
        ("source=log", "source is 'log'; expected bazaar, amazon, logs."),
    ],
)
def test_a_word_that_a_notebook_would_refuse_late_is_refused_at_once(value, told):
    quick = runner.NOTEBOOKS.parent / "params" / "quickstart.yaml"
    with pytest.raises(recipes.RecipeError, match=re.escape(told)):
        recipes.load(quick, recipes.declared_in(runner.NOTEBOOKS), [value])


def test_every_range_belongs_to_a_number_that_a_notebook_takes_and_every_fraction_has_one():
    declared = recipes.declared_in(runner.NOTEBOOKS).values()
    kinds = {key: (parameter.type, parameter.default) for keys in declared for key, parameter in keys.items()}
    assert set(recipes.LENGTHS) <= {key for key, (kind, _) in kinds.items() if kind.startswith("list")}
    assert set(recipes.CHOICES) <= {key for key, (kind, _) in kinds.items() if kind == "str"}
    assert set(recipes.RANGES) <= {key for key, (kind, _) in kinds.items() if "int" in kind}
    elsewhere = {key for key in kinds if key.startswith("bazaar_")} | {"rating_min", "rating_max"}
    assert set(recipes.FLOATS) == {key for key, (kind, _) in kinds.items() if "float" in kind} - elsewhere
    assert not [problem for key, (kind, default) in kinds.items() if (problem := recipes.unfit(key, default, kind))]


def test_the_recipe_for_own_logs_asks_a_sample_of_a_large_test():
    recipe = recipes.load(
        runner.NOTEBOOKS.parent / "params" / "amazon_local.yaml", recipes.declared_in(runner.NOTEBOOKS)
    )
    assert recipe.values["test_samples"] >= 1797  # the questions of the README's results, all of which are asked


@pytest.mark.parametrize("name", ["amazon_local", "real/office_smollm2", "real/office_smollm2_gpu"])
def test_a_recipe_that_is_told_where_its_data_are_means_the_same_from_any_folder(tmp_path, monkeypatch, name):
    loaded, declared = [], recipes.declared_in(runner.NOTEBOOKS)
    for folder in (tmp_path, tmp_path.parent):
        monkeypatch.chdir(folder)
        loaded.append(recipes.load(runner.NOTEBOOKS.parent / "params" / f"{name}.yaml", declared, ["source=logs"]))
    assert loaded[0] == loaded[1]


def test_a_base_on_the_command_line_is_refused_rather_than_passed_over(world):
    assert "a base is named in the recipe's file" in refused(world, "", "base=other.yaml")


def test_the_home_of_nobody_is_a_folder_that_is_not_there(world):
    assert load(world, "source_path: ~nobody-of-this-name/x\n").values["source_path"].endswith("/x")


def test_a_backbone_is_a_path_only_where_it_is_a_folder_or_a_gguf_file(world, monkeypatch):
    notebook(world / "notebooks" / "03_third.ipynb", 'backbone: str = "tiny"  # model')
    (world / "models").mkdir()
    assert load(world, "backbone: some/model").values["backbone"] == "some/model"
    monkeypatch.setenv("HOME", str(world))
    for local in ("models", "~/models", "model.gguf"):
        expected = str(world / local.removeprefix("~/"))
        assert load(world, f"backbone: {local}").values["backbone"] == expected  # whatever folder a kernel works in


def test_the_tiny_backbone_is_meant_where_a_folder_has_its_name_too(world):
    notebook(world / "notebooks" / "03_third.ipynb", 'backbone: str = "tiny"  # model')
    (world / "tiny").mkdir()
    assert load(world, "backbone: tiny").values["backbone"] == "tiny"
    assert load(world, "", "backbone=tiny").values["backbone"] == "tiny"
    assert load(world, "backbone: ./tiny").values["backbone"] == str(world / "tiny")


@pytest.mark.parametrize("text", ["%d/%m/%Y", "@home", "*", "[a].csv", "`store` == 'x'", "a: b", " a "])
def test_a_text_on_the_command_line_is_taken_as_it_stands_whatever_it_means_in_yaml(world, text):
    """A column's name may have blanks around it."""
    cell = 'label: str = ""  # what it is called\nother: str | None = None  # and by whom'
    notebook(world / "notebooks" / "03_third.ipynb", cell)
    assert load(world, "", f"label={text}").values["label"] == text
    assert load(world, "", "other= a b ").values["other"] == " a b "


def test_a_key_that_may_be_null_is_null_or_the_text_that_was_typed(world):
    notebook(world / "notebooks" / "03_third.ipynb", 'label: str | None = "éééééé"  # what it is called')
    assert load(world, "", "label=null").values["label"] is None
    assert load(world, "", "label=7").values["label"] == "7"
    assert recipes.declared(world / "notebooks" / "03_third.ipynb")["label"].comment == "what it is called"


def test_a_resolved_recipe_has_every_key_but_paths_left_at_their_defaults(world):
    declared = recipes.declared_in(world / "notebooks")
    recipe = load(world, "rows: 4\nthreads: 2\nfactor: 1.5\n")
    resolved = yaml.safe_load(recipes.as_yaml(recipe, declared, list(declared)))
    usual = {"rate": 0.5, "ks": [5, 10], "limit": None, "estimator": "grpo", "fail": False}
    head = {"name": "toy", "stages": list(declared), "threads": 2}
    assert resolved == head | usual | {"rows": 4, "factor": 1.5}
    named = recipes.as_yaml(load(world, "source_path: a.csv"), declared, ["01_first"])
    assert yaml.safe_load(named)["source_path"] == str(world / "a.csv") and "factor" not in named
