"""Pages of single cases: a history, the reasoning with its mentions marked, and what was recommended with and without.

Everything that comes from shoppers, items and models is escaped; what goes in are rows of tables, what comes out is a
fragment of HTML without script, style sheet or link.
"""

import html
from collections.abc import Mapping, Sequence

import pandas as pd


def highlight(chain: str, found: pd.DataFrame) -> str:
    """The chain as safe HTML: mentions of the history are marked, other catalogue mentions underlined.

    Args:
        found: the chain's rows of `reasoning.mentions`.
    """
    pieces, at = [], 0
    for mention in found.sort_values("start").drop_duplicates("start").itertuples():
        tag = "mark" if mention.in_history else "u"
        pieces += [
            html.escape(chain[at : mention.start]),
            f"<{tag}>{html.escape(chain[mention.start : mention.end])}</{tag}>",
        ]
        at = mention.end
    return "".join(pieces) + html.escape(chain[at:])


def case_html(
    sample: pd.Series,
    items: pd.DataFrame,
    chain: str,
    found: pd.DataFrame,
    top: Mapping[str, tuple[Sequence[int], Sequence[float], float]],
    note: str = "",
) -> str:
    """One case as a safe HTML fragment: history, reasoning with its mentions, and top items with scores.

    Args:
        sample: a row of the samples table.
        found: the chain's rows of `reasoning.mentions`.
        top: heading to (item indexes, scores, rank of the next purchase), such as with and without reasoning; the next
            purchase is set in bold.
        note: why the case is shown.
    """
    titles, target = items["title"], int(sample["target"])

    def shown(item: int) -> str:
        title = html.escape(titles.iloc[int(item)])
        return f"<b>{title} (bought next)</b>" if int(item) == target else title

    history = "".join(f"<li>{shown(item)}</li>" for item in sample["history"])
    lists = "".join(
        f"<td style='text-align:left'><b>{html.escape(heading)}</b>: the next purchase on place {rank:,.0f}<ol>"
        + "".join(f"<li>{shown(item)} · {score:.2f}</li>" for item, score in zip(ids, scores, strict=True))
        + "</ol></td>"
        for heading, (ids, scores, rank) in top.items()
    )
    told = highlight(chain, found) or "(empty)"
    return (
        f"<div><h4>Shopper {html.escape(str(sample['user_id']))}{html.escape(f', {note}' if note else '')}</h4>"
        f"<p>Bought, oldest first:</p><ul>{history}</ul><p>Reasoning:</p>"
        f"<blockquote style='white-space:pre-wrap'>{told}</blockquote>"
        f"<p>Bought next: {html.escape(titles.iloc[target])}</p><table><tr>{lists}</tr></table></div>"
    )
