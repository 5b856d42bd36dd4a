"""R²ec: a stock causal language model with an item table beside it.

`lm_head` writes a reasoning; at `<answer>` the `RecHead` scores every item of the catalogue with one inner product
between the hidden state and the item table, which the same model encoded from item texts (paper, section 3). The
language model is never subclassed or patched, so TRL, PEFT, vLLM, accelerate and `save_pretrained` see a normal
checkpoint. Training is in `trainer.py`, loading a backbone in `backbone.py`, the files of a model in `saved.py`.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, overload

import pandas as pd
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from r2ec_lib.data.purchases import catalogue_ids, is_one, shown_purchases
from r2ec_lib.data.readers import clean_items
from r2ec_lib.data.schema import DataError, Where, whole_number
from r2ec_lib.data.storage import whole_folder
from r2ec_lib.model import saved
from r2ec_lib.model.answer import ANSWER
from r2ec_lib.model.collaborative import Collaborative
from r2ec_lib.model.encoding import batched_states, encoded_tokens
from r2ec_lib.model.frozen import LowerStates
from r2ec_lib.model.head import RecHead
from r2ec_lib.model.prompts import Prompts
from r2ec_lib.model.sampling import Sampled, require_cache, sample
from r2ec_lib.model.scoring import (
    BLOCK,
    FEW,
    SCORES_HELD,
    all_log_probs,
    row_blocks,
    seen_mask,
    stable_topk,
    target_ranks,
    topk,
)

Writer = Callable[[Sequence[Sequence[int]], int, float, int], list[list[int]]]
"""Writes a reasoning a prompt, given what `R2ec.sample` is given: chains of token ids, closed or not."""


@dataclass(frozen=True)
class Recommendation:
    """Top items of one history, best first, and the reasoning that led to them."""

    item_ids: list[str]
    titles: list[str]
    scores: list[float]
    reasoning: str


class R2ec:
    """A recommender that reasons: language model, tokenizer, prompts, item catalogue and item table.

    Attributes:
        lm: any `AutoModelForCausalLM`, or a `PeftModel` around one.
        prompts: turns tables into ids.
        catalogue: items table, in table order.
        head: the item table.
        collaborative: what the history's items say by themselves, added to the scores of the head; None for nothing.
        max_new_tokens: longest reasoning that it was trained to write, which it writes where no other is asked for; 0
            for a model that answers at once.
        writer: samples reasonings in place of `lm`, such as `vllm.writer`; None where `lm` does.

    Raises:
        DataError: prompts name a column that item texts cannot show, or `lm` keeps no keys and values of its prompt.
        ValueError: catalogue, item table and tokenizer do not belong together.
    """

    writer: Writer | None = None

    def __init__(
        self,
        lm: PreTrainedModel,
        prompts: Prompts,
        catalogue: pd.DataFrame,
        head: RecHead | None = None,
        collaborative: Collaborative | None = None,
        max_new_tokens: int = 128,
    ):
        self.lm = lm
        self._lower = LowerStates(lm)
        self.prompts = prompts
        self.catalogue = catalogue.reset_index(drop=True)
        self.collaborative = collaborative
        self.max_new_tokens = max_new_tokens
        width = lm.config.get_text_config().hidden_size
        self.head = head or RecHead(list(self.catalogue["item_id"]), torch.zeros(len(catalogue), width))
        if list(self.catalogue["item_id"]) != self.head.item_ids:
            raise ValueError("the catalogue and the item table must list the same item ids in the same order")
        columns = self.catalogue.columns.drop("item_id")
        if missing := [name for name in prompts.style.item_columns if name not in columns]:
            raise DataError(f"item_columns names {missing[0]!r}, but the items have: {', '.join(columns)}.")
        require_cache(lm)
        if self.head.readout == "token" and prompts.recommend_id is None:
            raise ValueError('the read-out "token" needs its token: call backbone.add_recommend_token first')

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.prompts.tokenizer

    @property
    def lower(self) -> LowerStates:
        """What the layers below the first adapter say of item texts; nothing yet where `lm` is another one now."""
        if self._lower.lm is not self.lm:
            self._lower = LowerStates(self.lm)
        return self._lower

    @property
    def titles(self) -> list[str]:
        return self.catalogue["title"].tolist()

    # --- encoding -------------------------------------------------------------------------------------------------

    @property
    def read_id(self) -> int | None:
        """The token that is put after `<answer>` to be read, where the read-out is "token"."""
        return self.prompts.recommend_id if self.head.readout == "token" else None

    def closed(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Sequences that end in `<answer>`, with the token after it that the read-out may ask for."""
        tail = [] if self.read_id is None else [self.read_id]
        return [[*row, *tail] for row in ids]

    def before(self, prompt_ids: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """What stands before reasonings when their states are read: the prompts that they were written for, or, with
        the read-out "alone", one without purchases, so that a ranking knows of a history what is written of it (and
        nothing where an empty reasoning was written)."""
        return [self.prompts.empty] * len(prompt_ids) if self.head.readout == "alone" else prompt_ids

    def with_ending(self, tokens: int) -> int:
        """Tokens that are read of a text of so many, which `<answer>` is to close."""
        return tokens + len(self.closed([self.prompts.answer.ids])[0])

    @torch.no_grad()
    def encode(self, ids: Sequence[Sequence[int]], starts: Sequence[int] | None = None, again: bool = False) -> Tensor:
        """Vectors (B, d) of token sequences that end in `<answer>`; float32, on the model's device, no gradient.

        again: whether the texts will be read again, so that what frozen layers say of them is kept.
        """
        if not ids:
            return torch.empty(0, self.head.table.shape[1], device=self.lm.device)
        closed = self.closed(ids)
        self.require_positions(max(map(len, closed)))
        was_training = self.lm.training
        self.lm.eval()
        size, upper = encoded_tokens(self.lm), self.lower.upper if again else None
        states = batched_states(self.lm, self.lm, closed, starts, self.head.readout, size, upper)
        self.lm.train(was_training)
        return states.float()

    @property
    def positions(self) -> float:
        """Longest text, in tokens, that the model was made for; infinite where it has no limit."""
        return getattr(self.lm.config.get_text_config(), "max_position_embeddings", None) or math.inf

    def require_positions(self, tokens: int) -> None:
        """Raises DataError where a text is longer than the model was made for; it would fail, or read nonsense."""
        if tokens > self.positions:
            raise DataError(
                f"a text of {tokens} tokens, reasoning included, exceeds the {self.positions} positions of the model; "
                f"lower max_title_tokens, max_item_tokens, max_history or the length of a reasoning"
            )

    def encode_items(self, items: pd.DataFrame) -> Tensor:
        """Item vectors h_v (len(items), d) of an items table, from its texts alone."""
        return self.encode(self.prompts.item_ids(items), again=True)

    def refresh(self) -> None:
        """Encodes the whole catalogue into the item table (Algorithm 1). DataError where its vectors are learned."""
        self._require_texts()
        self.head.table = self.encode_items(self.catalogue)

    def user_states(self, samples: pd.DataFrame, chains: Sequence[Sequence[int]] | None = None) -> Tensor:
        """h_T of each row of a samples table: (B, d).

        Args:
            chains: token ids of a reasoning a row, each closed by `<answer>`; None reads the state with no reasoning,
                `<answer>` straight after the prompt.
        """
        prompts = self.prompts.user_ids(samples, self.titles)
        if chains is None:
            return self.read(prompts).states
        return self._after(self.before(prompts), chains)

    def _after(self, prompt_ids: Sequence[Sequence[int]], chains: Sequence[Sequence[int]]) -> Tensor:
        """States (B, d) of closed chains, each after a prompt."""
        rows = [[*prompt, *chain] for prompt, chain in zip(prompt_ids, chains, strict=True)]
        return self.encode(rows, starts=list(map(len, prompt_ids)))

    def scores(self, states: Tensor, histories: Sequence[Sequence[int]]) -> Tensor:
        """Scores (B, N) of every item for states (B, d) and the histories (item indexes, oldest first) behind them.

        States may also be those of G reasonings about each history, (B, G, d). A reasoning is then summed out:
        τ log 1/G Σ_g π(v | x_u, o_g), with π as in Eq. 7 over the items that the history does not hold.
        """
        if states.dim() == 3:
            parts = (self._log_probs(part, histories) for part in states.unbind(1))
            return self.head.temperature * (reduce(torch.logaddexp, parts) - math.log(states.shape[1]))
        scores, term = self.head.scores(states), self.collaborative
        return scores if term is None else scores + term.scores(histories, self.head.table).to(scores)

    def _log_probs(self, states: Tensor, histories: Sequence[Sequence[int]]) -> Tensor:
        """log π(v | x_u, o) (B, N) of every item for states (B, d)."""
        scores = self.scores(states, histories)
        return all_log_probs(scores, self.head.temperature, seen_mask(histories, scores.shape[1]).to(scores.device))

    # --- reasoning ------------------------------------------------------------------------------------------------

    def longest(self, max_new_tokens: int | None) -> int:
        """The longest reasoning that is asked for; as the model was trained where None. Raises DataError below 0."""
        return self.max_new_tokens if max_new_tokens is None else whole_number(max_new_tokens, "max_new_tokens", 0)

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        batch_tokens: int | None = None,
    ) -> Sampled:
        """Writes a reasoning a prompt, greedy at temperature 0, and reads its state h_T at `<answer>`: on the way,
        unless what stands `before` it is another prompt.

        With `max_new_tokens` of 0, `<answer>` follows the prompt at once.

        Returns:
            Chains of token ids, each ending in `<answer>`; whether the model wrote it, or it was appended where the
            model did not write it within `max_new_tokens` or ended its turn without it; and the states (B, d), which
            are those of `user_states` for the same chains.
        """
        if whole_number(max_new_tokens, "max_new_tokens", 0) == 0:
            return self.read(prompt_ids)
        self.require_positions(self.with_ending(max(map(len, prompt_ids), default=0) + max_new_tokens))
        if self.writer is not None:
            return self.read(prompt_ids, self.writer(prompt_ids, max_new_tokens, temperature, top_k))
        return self.drawn(prompt_ids, self.settings(max_new_tokens, temperature, top_k), batch_tokens)

    def drawn(
        self, prompt_ids: Sequence[Sequence[int]], settings: GenerationConfig, batch_tokens: int | None = None
    ) -> Sampled:
        """`sampling.sample` by `lm`, which is in evaluation mode meanwhile."""
        was_training = self.lm.training
        self.lm.eval()
        answer, readout = self.prompts.answer, self.head.readout
        sampled = sample(self.lm, prompt_ids, settings, answer, readout, batch_tokens, read_id=self.read_id)
        self.lm.train(was_training)
        if readout != "alone":
            return sampled
        return replace(sampled, states=self._after(self.before(prompt_ids), sampled.chains))

    def settings(self, max_new_tokens: int, temperature: float = 0.0, top_k: int = 0) -> GenerationConfig:
        """How a reasoning is written: greedily at temperature 0, else from the softmax over the `top_k` best tokens,
        over all of them where it is 0."""
        drawn = {"do_sample": True, "temperature": temperature, "top_k": top_k} if temperature > 0 else {}
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.prompts.answer.stop_ids(self.lm),
            suppress_tokens=None if self.read_id is None else [self.read_id],
            **drawn,
        )

    def read(self, prompt_ids: Sequence[Sequence[int]], chains: Sequence[Sequence[int]] | None = None) -> Sampled:
        """What `sample` returns, for chains that were written elsewhere: closed, and their states read in one pass.
        Without any, `<answer>` follows the prompts at once."""
        closed, written = self.prompts.answer.close([[]] * len(prompt_ids) if chains is None else chains)
        return Sampled(closed, written, self._after(prompt_ids if chains is None else self.before(prompt_ids), closed))

    def decode(self, chain: Sequence[int]) -> str:
        """The text of a reasoning, without `<answer>` and other control tokens."""
        text = str(self.tokenizer.decode(list(chain), skip_special_tokens=True))
        return (text.rpartition(ANSWER)[0] if ANSWER in text else text).strip()

    # --- recommending ---------------------------------------------------------------------------------------------

    @overload
    def recommend(self, history: Sequence[str] | Sequence[float], *args: Any, **kwargs: Any) -> Recommendation: ...

    @overload
    def recommend(self, history: Sequence[Any] | pd.DataFrame, *args: Any, **kwargs: Any) -> list[Recommendation]: ...

    def recommend(
        self,
        history: Sequence[Any] | pd.DataFrame,
        k: int = 10,
        hours: Sequence[Any] | None = None,
        ratings: Sequence[Any] | None = None,
        max_new_tokens: int | None = None,
        latest: Sequence[int] | None = None,
        reasonings: int = 1,
        temperature: float = 0.7,
    ) -> Recommendation | list[Recommendation]:
        """Reasons about a history, or about many in batches of similar length, and ranks the catalogue for each.

        Args:
            history: item ids, oldest first: texts or numbers, in a list, an array or a column. Or a list of such
                histories; or a table of interactions (`data.schema`), in which each user_id has one. The
                latest `max_history` of the model's prompts are read, and none of them all is recommended.
            k: length of the list, fewer where the catalogue holds fewer other items.
            hours: how many hours ago each purchase was, a list per history; a day apart if left out. In a table,
                they are counted back from its latest interaction.
            ratings: one per purchase, None where there is none, a list per history; or left out.
            max_new_tokens: longest reasoning; 0 answers at once, without one. As the model was trained if left out.
            latest: how many purchases are read, a number per history, where these are fewer than `max_history`.
            reasonings: how many are written about a history; one is greedy. Of several, drawn at `temperature` (as
                torch's seed says), the probabilities that they give to the items are averaged (`scores`), and the one
                that speaks most for the first item is shown.

        Returns:
            The answer to one history, or a list of answers: in the order of the histories, or of the `unique()`
            user_id of a table.

        Raises:
            DataError: an empty history, an id that is not in the catalogue, or numbers that do not fit.
        """
        whole_number(k, "k", 1)  # before a reasoning takes its time
        rows = self.purchases(history, hours, ratings, latest)
        drawn, histories = whole_number(reasonings, "reasonings", 1), rows["history"].to_list()
        prompts = [prompt for prompt in self.prompts.user_ids(rows, self.titles) for _ in range(drawn)]
        sampled = self.sample(prompts, self.longest(max_new_tokens), temperature if drawn > 1 else 0.0)
        states = sampled.states if drawn == 1 else sampled.states.unflatten(0, (len(rows), drawn))
        lists = self.best_items(states, histories, k, owned=rows["owned"].to_list())
        answers = []
        for row, best in enumerate(lists):
            told = row * drawn
            if drawn > 1 and best[0]:
                first = self.head.index[best[0][0]]
                told += int(self._log_probs(states[row], [histories[row]] * drawn)[:, first].argmax())
            answers.append(Recommendation(*best, self.decode(sampled.chains[told])))
        return answers[0] if is_one(history) else answers

    def purchases(
        self,
        history: Sequence[Any] | pd.DataFrame,
        hours: Sequence[Any] | None = None,
        ratings: Sequence[Any] | None = None,
        latest: Sequence[int] | None = None,
    ) -> pd.DataFrame:
        """What `recommend` is given, as the history columns of a samples table, checked and cut as in training; and
        `owned`, the items of each history before the cut."""
        style = self.prompts.style
        return shown_purchases(
            history,
            hours,
            ratings,
            latest,
            item_index=self.head.index,
            max_history=style.max_history,
            rating_range=(style.rating_min, style.rating_max),
        )

    def best_items(
        self,
        states: Tensor,
        histories: Sequence[Sequence[int]],
        k: int,
        barred: Tensor | None = None,
        owned: Sequence[Sequence[int]] | None = None,
    ) -> list[tuple[list[str], list[str], list[float]]]:
        """Ids, titles and scores of each row's k best items, best first: none of its history, and none that is barred.

        Args:
            states: (B, d) user states, or (B, G, d) as in `scores`.
            barred: (B, N) bool.
            owned: what is not recommended in place of the items of the history, where that is only a part of them.

        Raises:
            DataError: k is below 1, or a score is NaN.
        """
        k = whole_number(k, "k", 1)
        if not len(states):
            return []
        ids, titles, lists = self.head.item_ids, self.titles, []
        owned = histories if owned is None else owned
        size = max(BLOCK // len(ids), min(FEW, SCORES_HELD // len(ids)), 1)
        for rows in torch.arange(len(states)).split(size):
            shown, hidden = [histories[row] for row in rows.tolist()], [set(owned[row]) for row in rows.tolist()]
            least = k + max(map(len, hidden))
            best = self._best(states[rows], shown, least, None if barred is None else barred[rows])
            if (bad := best[0].isnan().any(dim=1).cpu()).any():  # NaN counts as the largest
                raise DataError(
                    f"history {int(rows[bad][0]) + 1}: its scores are NaN, since the model's states or item vectors "
                    "are. Load a model whose training did not diverge, or load this one in float32."
                )
            for seen, *listed in zip(hidden, *(part.tolist() for part in best), strict=True):
                pairs = [pair for pair in zip(*listed, strict=True) if pair[0] > -math.inf and pair[1] not in seen]
                items = [item for _, item in pairs[:k]]
                values = [value for value, _ in pairs[:k]]
                lists.append(([ids[item] for item in items], [titles[item] for item in items], values))
        return lists

    def _best(
        self, states: Tensor, histories: Sequence[Sequence[int]], k: int, barred: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Scores and indexes of the k best items of each row that are not barred, seen ones among them."""
        k = min(k, len(self.head.item_ids))
        if barred is None and self.collaborative is None and states.dim() == 2:
            return topk(states, self.head.table.to(states.device), k, similarity=self.head.similarity)
        scores = self.scores(states, histories)  # (b, N)
        return stable_topk(scores if barred is None else scores.masked_fill(barred.to(scores.device), -torch.inf), k)

    # --- catalogue ------------------------------------------------------------------------------------------------

    def add_items(self, items: pd.DataFrame, where: Where = "items") -> None:
        """Adds items, or replaces those whose id is known, by encoding their texts; no training.

        Columns that the catalogue lacks are left out. Where one of its own is missing, an item that is replaced keeps
        its text, and that of a new one is "".

        In the collaborative term, an item with another text is still bought together with what it was, but shares no
        words with other items, as a new one, until the term is fitted anew.

        Texts are cleaned as those of the first catalogue were. Raises DataError for a missing or repeated id or title,
        which names the row by `where`, for vectors that are NaN or infinite, and where those at hand are learned;
        nothing is changed then.
        """
        self._require_texts()
        given = clean_items(items, where).set_index("item_id")
        fresh = self.catalogue.set_index("item_id").reindex(given.index, fill_value="")
        for name in given.columns.intersection(fresh.columns):
            fresh[name] = given[name]
        kept = ~self.catalogue["item_id"].isin(given.index)
        catalogue = pd.concat([self.catalogue[kept], fresh.reset_index()], ignore_index=True).fillna("")
        vectors = self.encode_items(catalogue[int(kept.sum()) :])  # with the catalogue's order of columns
        if (bad := ~vectors.isfinite().all(dim=1)).any():
            raise DataError(
                f"{int(bad.sum()):,} of {len(given):,} items, such as {given.index[bad.cpu().numpy()][0]!r}, have "
                "vectors that are NaN or infinite. Load a model whose training did not diverge, or load this one in "
                "float32."
            )
        old = self.head.table[torch.tensor(kept.to_numpy())].to(vectors.device)
        self._replace(catalogue, torch.cat([old, vectors]))

    def remove_items(self, item_ids: Sequence[str]) -> None:
        """Drops items from the catalogue. Raises DataError for an unknown id, or where no item would be left."""
        kept = ~self.catalogue["item_id"].isin(catalogue_ids(item_ids, "item_ids", self.head.index))
        if not kept.any():
            raise DataError(f"removing {len(kept):,} items leaves none. Keep one at least.")
        self._replace(self.catalogue[kept], self.head.table[torch.tensor(kept.to_numpy())])

    def _require_texts(self) -> None:
        if self.head.learned:
            raise DataError(
                "the item vectors of this model were learned one by one (item_vectors: learned), so no text gives it "
                "another. Train a model with item_vectors: texts."
            )

    def _replace(self, catalogue: pd.DataFrame, table: Tensor) -> None:
        old = self.head
        if self.collaborative is not None:
            self.collaborative = self.collaborative.for_catalogue(self.catalogue, catalogue)
        self.catalogue = catalogue.reset_index(drop=True)
        how = (old.temperature, old.similarity, old.readout, old.learned)
        self.head = RecHead(list(catalogue["item_id"]), table, *how)

    # --- saving ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike, weights: dict[str, Tensor] | None = None) -> None:
        """Writes language model (or adapter), tokenizer, item table, catalogue and config; replaces `folder` whole.

        weights: the language model's, by name, where the model at hand holds only a part of each.

        Raises ValueError for an adapter on a backbone that came from no folder or hub: it could not be read again.
        """
        with whole_folder(folder) as fresh:
            parts = (self.lm, self.prompts, self.catalogue, self.head, self.collaborative, self.max_new_tokens)
            saved.write(fresh, *parts, weights)

    @classmethod
    def load(cls, folder: str | os.PathLike, dtype: torch.dtype | None = None, device: str | None = None) -> "R2ec":
        """Reads what `save` wrote. Weights come from safetensors alone and no code is loaded.

        Args:
            dtype: of the backbone's weights; the one it was saved in if left out. Adapters are float32 at least. On a
                CPU that does not multiply that precision, so is all.

        Raises:
            FileNotFoundError: `folder` holds no saved R²ec, or not the whole of its language model.
            DataError: another of its files is missing, damaged, or from another version of this library.
        """
        return cls(*saved.read(Path(folder), dtype, device))


@torch.no_grad()
def ranks_of(model: R2ec, samples: pd.DataFrame, states: Tensor, mask_seen: bool = True) -> Tensor:
    """Ranks (B,) of the targets of a samples table by its user states (B, d).

    mask_seen: whether the items of a history are no candidates.
    """
    histories, num_items, ranks = samples["history"].to_list(), len(model.catalogue), []
    targets = torch.tensor(samples["target"].to_numpy(), dtype=torch.long, device=states.device)
    for rows in row_blocks(len(samples), num_items):
        scores = model.scores(states[rows], histories[rows])  # (b, N)
        seen = seen_mask(histories[rows], num_items).to(scores.device) if mask_seen else None
        ranks.append(target_ranks(scores, targets[rows], seen))
    return torch.cat(ranks)
