"""Every example in a docstring of the library holds."""

import doctest
import importlib
from pathlib import Path

import pytest

import r2ec_lib

LIBRARY = Path(r2ec_lib.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts)
    for path in LIBRARY.rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


def test_examples_are_found_in_sub_packages():
    assert {"data", "model", "training", "evaluation"} <= {name.split(".")[1] for name in MODULES}
