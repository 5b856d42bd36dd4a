"""Every example in a docstring of the library holds."""

import doctest
import importlib
from pathlib import Path

import pytest

import r2ec_lib

MODULES = sorted(path.stem for path in Path(r2ec_lib.__file__).parent.glob("*.py") if ">>>" in path.read_text())


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(f"r2ec_lib.{name}"))
    assert found.attempted and not found.failed
