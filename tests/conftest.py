"""Tiny models and tables built in memory; nothing is downloaded and nothing is written outside tmp_path."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.backbone import build_tiny, train_tokenizer
from r2ec_lib.model import R2ec
from r2ec_lib.prompts import Prompts, PromptStyle

COLOURS = ["red", "blue", "green", "black", "white"]
KINDS = ["kettle", "mug", "lamp", "chair", "desk", "rug"]


def pytest_collection_modifyitems(items):
    """The notebooks run last: what the quick tests would find is then known already."""
    items.sort(key=lambda item: item.path.name == "test_notebooks.py")


@pytest.fixture(scope="session")
def items() -> pd.DataFrame:
    """30 items, each a colour and a kind."""
    rows = [(f"i{n}", f"{colour} {kind}") for n, (colour, kind) in enumerate((c, k) for c in COLOURS for k in KINDS)]
    table = pd.DataFrame(rows, columns=["item_id", "title"])
    return table.assign(brand=["Acme", "Globex"] * 15)


@pytest.fixture(scope="session")
def samples(items) -> pd.DataFrame:
    """48 samples with histories of 1 to 4 items; the target never stands in the history."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(48):
        drawn = generator.choice(len(items), size=generator.integers(2, 6), replace=False).tolist()
        hours = sorted(generator.uniform(1, 400, size=len(drawn) - 1).tolist(), reverse=True)
        ratings = [float("nan") if n % 2 else 5.0 for n in range(len(hours))]
        rows.append((number, f"u{number // 2}", "train", drawn[-1], drawn[:-1], hours, ratings))
    columns = ["sample_id", "user_id", "split", "target", "history", "history_hours", "history_ratings"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="session")
def tokenizer(items):
    texts = (
        items["title"].tolist() + ["Purchases: Thoughts: Item: title: brand: Summary: 12d ago the shopper likes"] * 9
    )
    return train_tokenizer(texts * 3, vocab_size=400)


@pytest.fixture
def tiny(tokenizer, items) -> R2ec:
    """A fresh two-layer R²ec in float64, its item table encoded."""
    lm = build_tiny(tokenizer, hidden_size=16, num_layers=2, num_heads=2, seed=1).double().eval()
    model = R2ec(lm, Prompts(tokenizer, PromptStyle(instruct=False)), items)
    model.refresh()
    return model


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are faster on one thread, and results do not depend on the machine's cores."""
    torch.set_num_threads(1)
