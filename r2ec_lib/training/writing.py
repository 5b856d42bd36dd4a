"""The writing steps: a pretrained backbone with adapters learns to write analyses, before anything is ranked.

What it writes later is judged by the ranking that follows. That alone does not teach it to say what is so, and where
both were learned at once from the first step, it named purchases that were never made.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from r2ec_lib.data.storage import read_json, write_json
from r2ec_lib.model import R2ec
from r2ec_lib.model.prompts import Document
from r2ec_lib.model.tiny import document_ids, warm_up
from r2ec_lib.training.item_action import digest, parts_of


def write_and_save(
    start: str | os.PathLike,
    folder: str | os.PathLike,
    train: pd.DataFrame,
    told: Sequence[str],
    steps: int,
    **how: Any,
) -> None:
    """Trains the adapters of the R²ec in `start` to write given reasonings, by AdamW, and saves it in `folder`.

    A job that has been done already, from the same start with the same texts, is not done again.

    Args:
        train, told: a samples table, and the reasoning for each of its rows, without `<answer>`.
        how: further keywords of `model.tiny.warm_up`.
    """
    texts = hashlib.sha256(repr(list(told)).encode()).hexdigest()
    job = {"start": parts_of(start), "samples": digest(train), "told": texts, "steps": steps, **how}
    done = Path(folder) / "job.json"
    if done.is_file() and read_json(done) == job:
        return
    model = R2ec.load(start)
    pairs = zip(model.prompts.user_texts(train, model.titles), told, strict=True)
    documents = [Document(*pair) for pair in pairs]
    model.require_positions(max(map(len, document_ids(model.prompts, documents)[0])))
    warm_up(model.lm, model.prompts, documents, steps, matrix_rate=0.0, **how)
    model.save(folder)
    write_json(job, done)
