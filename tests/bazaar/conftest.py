"""A small Bazaar, its samples and its warm-up corpus, generated once."""

import pandas as pd
import pytest

from r2ec_lib.bazaar.warmup import warmup_documents
from r2ec_lib.bazaar.world import BazaarConfig, World, generate
from r2ec_lib.data.splits import make_samples
from r2ec_lib.model.prompts import Document, Prompts, PromptStyle
from r2ec_lib.model.tiny import train_tokenizer

ANALYSES = 400


@pytest.fixture(scope="package")
def world() -> World:
    sizes = {"items": 700, "users": 900, "kits": 8, "styles": 4, "tiers": 2, "brands": 16, "lines": 3, "late_kits": 1}
    return generate(BazaarConfig(**sizes, basket=(2, 5), returns=2.0, seed=3))


@pytest.fixture(scope="package")
def samples(world) -> pd.DataFrame:
    return make_samples(world.items, world.interactions)[0]


@pytest.fixture(scope="package")
def prompts(world) -> Prompts:
    return Prompts(train_tokenizer(world.items["title"], 400), PromptStyle(instruct=False))


@pytest.fixture(scope="package")
def documents(world, samples, prompts) -> list[Document]:
    return warmup_documents(world, samples[samples["split"] == "train"], prompts, n=ANALYSES, seed=1)
