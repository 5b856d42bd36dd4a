"""Tiny models and tables built in memory; nothing is downloaded and nothing is written outside tmp_path.

Only fixtures import torch and what needs it: whoever hands out tests to workers loads this module, too.
"""

import copy
import gc
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # kernels and other processes of small models, too

import numpy as np
import pandas as pd
import pytest

for name in [name for name in os.environ if name.startswith(("MAKE", "MFLAGS", "GIT_"))]:
    del os.environ[name]  # of the make or git hook that runs the tests: it would direct those that tests start

DAY = pd.Timedelta(days=1)
START = pd.Timestamp("2023-01-01", tz="UTC")

LONGEST = "notebooks notebook_pretrained jobs cli checkpoints runner notebook_benchmark folder sharded".split()
"""Files of tests that take long, the longest first."""
COLOURS = ["red", "blue", "green", "black", "white"]
KINDS = ["kettle", "mug", "lamp", "chair", "desk", "rug"]


def _samples_of(sequences: dict[str, list[int]], max_history=20, split="train", positions=None) -> pd.DataFrame:
    """Every position of each shopper's daily purchases as a sample, in time order."""
    rows = []
    for user, items in sequences.items():
        for at in positions or range(1, len(items)):
            history = items[max(0, at - max_history) : at]
            hours = [24.0 * (len(history) - i) for i in range(len(history))]
            rows.append((user, split, START + at * DAY, items[at], np.array(history), np.array(hours, np.float32)))
    columns = ["user_id", "split", "timestamp", "target", "history", "history_hours"]
    table = pd.DataFrame(rows, columns=columns).sort_values("timestamp", kind="stable", ignore_index=True)
    return table.assign(sample_id=np.arange(len(table)))


@pytest.fixture
def samples_of():
    """Makes a samples table of every position of each shopper's daily purchases."""
    return _samples_of


@pytest.fixture
def cycles():
    """Makes sequences of shoppers who buy item i + 1 after item i."""

    def make(users: int, num_items: int, length: int, seed: int) -> dict[str, list[int]]:
        starts = np.random.default_rng(seed).integers(0, num_items, users)
        return {f"u{seed}-{i}": [(int(s) + t) % num_items for t in range(length)] for i, s in enumerate(starts)}

    return make


def pytest_collection_modifyitems(items):
    """The longest files run last, when what the quick tests would find is known already; beside other workers they
    begin, the longest first, so that none waits for a long one at the end."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    direction = 1 if "PYTEST_XDIST_WORKER" in os.environ else -1
    items.sort(key=lambda item: direction * places.get(item.path.name, len(LONGEST)))


def pytest_collection_finish():
    """Each training ends with a full garbage collection, a third of its time; it need not search the libraries."""
    gc.collect()
    gc.freeze()


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
    from r2ec_lib.model.tiny import train_tokenizer

    texts = (
        items["title"].tolist() + ["Purchases: Thoughts: Item: title: brand: Summary: 12d ago the shopper likes"] * 9
    )
    return train_tokenizer(texts * 3, vocab_size=400)


@pytest.fixture
def tiny(tokenizer, items):
    """A fresh two-layer R²ec in float64, its item table encoded."""
    from r2ec_lib.model import R2ec
    from r2ec_lib.model.prompts import Prompts, PromptStyle
    from r2ec_lib.model.tiny import build_tiny

    tokenizer = copy.deepcopy(tokenizer)  # a test may add a token to its own
    lm = build_tiny(tokenizer, hidden_size=16, num_layers=2, num_heads=2, seed=1).double().eval()
    model = R2ec(lm, Prompts(tokenizer, PromptStyle(instruct=False)), items)
    model.refresh()
    return model


@pytest.fixture
def bought_alone(tiny):
    """Makes a collaborative term of which only the first part says anything."""
    import torch

    from r2ec_lib.model.collaborative import Collaborative, ItemMap, ItemWeights

    def make(bought: ItemWeights) -> Collaborative:
        rows, width = tiny.head.table.shape
        nothing = ItemWeights(torch.zeros(rows, 1, dtype=torch.long), torch.zeros(rows, 1))
        return Collaborative(bought, nothing, ItemMap(torch.eye(width), torch.zeros(width), scale=0.0))

    return make


@pytest.fixture
def tiny_with_token(tiny):
    """`tiny` whose read-out is the state of a token of its own after `<answer>`."""
    from r2ec_lib.model import R2ec
    from r2ec_lib.model.backbone import add_recommend_token
    from r2ec_lib.model.prompts import Prompts

    add_recommend_token(tiny.lm, tiny.tokenizer)
    model = R2ec(tiny.lm, Prompts(tiny.tokenizer, tiny.prompts.style), tiny.catalogue)
    model.head.readout = "token"
    model.refresh()
    return model


@pytest.fixture
def make_trainer(tiny, samples, tmp_path):
    """Makes trainers of `tiny` (or another model) on `samples`, in training mode, that have not yet started."""
    from r2ec_lib.training.trainer import RecPOConfig, RecPOTrainer  # slow to import, and few tests need it

    def make(model=tiny, **choices):
        usual = {
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": 6,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "use_cpu": True,
            "save_strategy": "no",
        }
        config = RecPOConfig(output_dir=str(tmp_path / "out"), **{**usual, **choices})
        trainer = RecPOTrainer(model, config, samples)
        trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
        trainer.model.train()
        return trainer

    return make


@pytest.fixture
def make_scored(make_trainer, monkeypatch):
    """Makes the tensors of a rollout whose trajectories earn given rewards (U, G)."""
    import torch

    from r2ec_lib.training import rollout

    def make(rewards, **choices):
        size = {"num_generations": len(rewards[0]), "per_device_train_batch_size": len(rewards) * len(rewards[0])}
        trainer = make_trainer(reward_mix=0.0, **size, **choices)
        earned = [reward for group in rewards for reward in group]
        chains = [[40 + place, 2] for place in range(len(earned))]
        drawn = rollout.Drawn(chains, [2] * len(chains), [True] * len(chains), torch.zeros(len(chains), 16))
        monkeypatch.setattr(trainer, "sample_chains", lambda prompts: drawn)
        original = trainer.rewarded
        monkeypatch.setattr(trainer, "rewarded", lambda *given: {**original(*given), "reward_ndcg": earned})
        return trainer._generate_and_score_completions(
            [{"prompt": user} for user, group in enumerate(rewards) for _ in group]
        )

    return make


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are faster on one thread, and results do not depend on the machine's cores."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
