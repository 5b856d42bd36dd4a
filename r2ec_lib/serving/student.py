"""A student: a small network that answers in one pass what its teacher, an R²ec, answers after writing a reasoning.

A student reads the teacher's item vectors and gives a user state in the teacher's item space, so that the teacher's
`scores` ranks it, an item that came in after training can be read and recommended at once, and nothing but the network
itself is kept. It writes nothing: a reason is the teacher's, and only written when asked. Training is in `distil`.
Letters in shapes: B rows, T purchases, N items, d the teacher's width, w the student's.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from r2ec_lib.analysis import causal
from r2ec_lib.data.purchases import catalogue_ids, is_one
from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json, whole_folder, write_json
from r2ec_lib.evaluation.baselines.networks import pad
from r2ec_lib.model import R2ec
from r2ec_lib.model.r2ec import Recommendation

FOLDER = "student"
"""Where an R²ec's folder holds its student."""
SIZES, WEIGHTS = "student.json", "student.safetensors"
PADDING = -1
BATCH = 512
"""Histories that a student reads at once, which bounds its memory."""
LOG_HOURS = 5.0
"""Logarithms of hours are divided by this, to lie near 1."""


class Student(nn.Module):
    """Self-attention over the item vectors of a history, their times and ratings; a query's place becomes the state.

    As SASRec (1808.09781), but its items are the teacher's vectors, read and not learned, and it looks at the whole
    history from a single place.

    Args:
        dims: d.
        max_history: most purchases of a history.
        rating_max: by which ratings are divided.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self, dims: int, max_history: int, *, width: int, layers: int, heads: int = 4, rating_max: float = 5.0
    ):
        super().__init__()
        self.sizes: dict[str, float] = {"dims": dims, "max_history": max_history, "width": width}
        self.sizes |= {"layers": layers, "heads": heads, "rating_max": rating_max}
        self.rating_max = rating_max
        self.register_buffer("centre", torch.zeros(dims))  # of the item vectors seen in training
        self.register_buffer("spread", torch.ones(dims))
        self.items = nn.Linear(dims, width)
        self.facts = nn.Linear(3, width)
        self.positions = nn.Parameter(torch.randn(max_history, width) / 10)
        self.query = nn.Parameter(torch.randn(width) / 10)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, dims)

    def fit_scales(self, table: Tensor, states: Tensor) -> None:
        """Starts from the means and spreads of the teacher's item vectors (N, d) and user states (B, d)."""
        with torch.no_grad():
            self.centre.copy_(table.mean(dim=0))
            self.spread.copy_(table.std(dim=0).clamp(min=1e-6))
            self.out.bias.copy_(states.mean(dim=0))
            self.out.weight.mul_(states.std(dim=0)[:, None])

    def forward(self, table: Tensor, ids: Tensor, facts: Tensor) -> Tensor:
        """User states (B, d) from the item table (N, d) and the two tensors of `inputs`."""
        vectors = (table[ids.clamp(min=0)] - self.centre) / self.spread  # (B, T, d)
        hidden = self.items(vectors) + self.facts(facts) + self.positions[: ids.shape[1]]  # (B, T, w)
        hidden = torch.cat([self.query.expand(len(ids), 1, -1), hidden], dim=1)  # (B, 1 + T, w)
        padding = nn.functional.pad(ids == PADDING, (1, 0), value=False)  # (B, 1 + T)
        return self.out(self.blocks(hidden, src_key_padding_mask=padding)[:, 0])

    def inputs(self, rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
        """Item indexes (B, T), `PADDING` on the right, and facts (B, T, 3) of the histories in a samples table.

        The facts: logarithms of the hours since a purchase and of those until the next one, and its rating, 0 where
        there is none.
        """
        ids = pad(rows["history"].to_list(), PADDING)
        hours = pad(rows["history_hours"].to_list(), 0, torch.float32)  # (B, T)
        gaps = (hours - nn.functional.pad(hours[:, 1:], (0, 1))).clamp(min=0)
        ratings = pad(rows["history_ratings"].to_list(), 0, torch.float32).nan_to_num() / self.rating_max
        return ids, torch.stack([hours.log1p() / LOG_HOURS, gaps.log1p() / LOG_HOURS, ratings], dim=2)

    @torch.no_grad()
    def states(self, teacher: R2ec, rows: pd.DataFrame) -> Tensor:
        """User states (B, d) of the histories in a samples table, for `teacher.scores`."""
        self.eval()
        device = self.query.device
        table = teacher.head.table.to(device)
        batches = [rows.iloc[start : start + BATCH] for start in range(0, max(len(rows), 1), BATCH)]
        return torch.cat([self(table, *(part.to(device) for part in self.inputs(batch))) for batch in batches])

    def scores(self, teacher: R2ec, rows: pd.DataFrame) -> Tensor:
        """Scores (B, N) of the teacher's catalogue for the histories in a samples table."""
        return teacher.scores(self.states(teacher, rows), rows["history"].to_list())

    def save(self, folder: str | os.PathLike) -> None:
        """Writes weights and sizes; replaces `folder` whole."""
        with whole_folder(folder) as fresh:
            save_file({name: weight.cpu().contiguous() for name, weight in self.state_dict().items()}, fresh / WEIGHTS)
            write_json(self.sizes, fresh / SIZES)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Student":
        """Reads what `save` wrote, to the GPU where there is one. Raises FileNotFoundError where there is no student,
        DataError for a broken one."""
        folder = Path(folder)
        if not (folder / SIZES).exists():
            raise FileNotFoundError(
                f"{folder} holds no student ({SIZES} is missing). Run 09_student.ipynb with student_epochs above "
                "0 first."
            )
        try:
            student = cls(**read_json(folder / SIZES))
            student.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, TypeError, RuntimeError, SafetensorError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise DataError(f"{folder}: the student cannot be read ({reason}). Copy or train it again.") from error
        return student.to("cuda" if torch.cuda.is_available() else "cpu").eval()


@dataclass(frozen=True)
class Explanation:
    """Why an item ranks where it does for a history.

    Attributes:
        item_id, title: of the item that was asked for.
        rank, rank_without: its rank among all items after the reasoning, and without any; 1 is best.
        reasoning: what the teacher writes about the history.
        sentences: `sentence` (text) and `effect` (nats): by how much leaving it out lowers the item's
            log-probability. Empty where the reasoning has fewer than two sentences.
        parts: what the item's score is the sum of: `part` (text), `score`, and `mean`, that of all items in this part,
            since only differences between items make a rank. "reasoning" is the language model's; the others are
            those of the collaborative term, where the model has one.
    """

    item_id: str
    title: str
    rank: float
    rank_without: float
    reasoning: str
    sentences: pd.DataFrame
    parts: pd.DataFrame


class FastR2ec:
    """An R²ec with its student: lists at once, reasons when asked.

    Attributes:
        teacher: asked for reasons, and for lists where nobody waits.
        student: asked for lists where somebody does.
    """

    def __init__(self, teacher: R2ec, student: Student):
        self.teacher = teacher
        self.student = student

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "FastR2ec":
        """The R²ec in `folder` and the student that it holds. Raises FileNotFoundError where either is missing."""
        return cls(R2ec.load(folder), Student.load(Path(folder) / FOLDER))

    def recommend(
        self,
        history: Sequence[Any] | pd.DataFrame,
        k: int = 10,
        hours: Sequence[Any] | None = None,
        ratings: Sequence[Any] | None = None,
        max_new_tokens: int | None = None,
        fast: bool = False,
    ) -> Recommendation | list[Recommendation]:
        """`R2ec.recommend`; with `fast`, the student's lists, whose reasoning is empty (`explain` gives one)."""
        if not fast:
            return self.teacher.recommend(history, k, hours, ratings, max_new_tokens)
        rows = self.teacher.purchases(history, hours, ratings)
        states, owned = self.student.states(self.teacher, rows), rows["owned"].to_list()
        lists = self.teacher.best_items(states, rows["history"].to_list(), k, owned=owned)
        answers = [Recommendation(*best, "") for best in lists]
        return answers[0] if is_one(history) else answers

    def explain(self, *args: Any, **keys: Any) -> Explanation:
        """`explain` of the teacher: what it writes about a history, and what that does for one item."""
        return explain(self.teacher, *args, **keys)


def explain(
    model: R2ec,
    history: Sequence[Any],
    item: str | float,
    hours: Sequence[float] | None = None,
    ratings: Sequence[float] | None = None,
    max_new_tokens: int | None = None,
) -> Explanation:
    """What a model writes about a history, what each sentence of it does for one item, and what makes up its score.

    As in `R2ec.recommend`, only the latest purchases are read, and none of all is a candidate.

    Raises:
        DataError: as `R2ec.recommend`, or the item is not in the catalogue.
    """
    if not is_one(history):
        raise DataError("an explanation takes one history: a list of item ids, oldest first.")
    [item] = catalogue_ids([item], "item", model.head.index)
    at = model.head.index[item]
    read = model.purchases(history, hours, ratings)
    rows = pd.DataFrame({"sample_id": 0, "user_id": "", "history": read["owned"], "target": at})
    sampled = model.sample(model.prompts.user_ids(read, model.titles), model.longest(max_new_tokens))
    [chain] = sampled.chains

    def score(part: pd.DataFrame, chains: causal.Chains | None) -> Tensor:
        again = read.iloc[[0] * len(part)]
        return model.scores(model.user_states(again, chains), again["history"].to_list())

    full, none = (causal.rank_chains(score, rows, chains) for chains in ([chain], None))
    ends = causal.sentence_ends([chain], lambda ids: str(model.tokenizer.decode(list(ids))))
    body, temperature = model.prompts.answer.body, model.head.temperature
    left_out = causal.drop_one(score, rows, [chain], ends, body, [at], temperature=temperature)
    texts = [model.decode(chain[start:stop]) for start, stop in zip(left_out["start"], left_out["stop"], strict=True)]
    sentences = pd.DataFrame({"sentence": texts, "effect": left_out["effect"].to_numpy(float)})
    histories, term = read["history"].to_list(), model.collaborative
    parts = {"reasoning": model.head.scores(sampled.states)}
    if term is not None:
        parts["bought together"] = term.bought.scores(histories)
        parts["shared words"] = term.worded.scores(histories)
        parts["what follows what"] = term.follows.scores(histories, model.head.table)
    summed = [(name, scores[0, at].item(), scores.mean().item()) for name, scores in parts.items()]
    shares = pd.DataFrame(summed, columns=["part", "score", "mean"])
    title, ranks = model.titles[at], (full["rank"].item(), none["rank"].item())
    return Explanation(item, title, *ranks, model.decode(chain), sentences, shares)
