"""Catalogues and validated logs of made-up purchases, for tests of what is made from them."""

import numpy as np
import pandas as pd

from r2ec_lib.data.schema import validate_interactions


def catalogue(n):
    return pd.DataFrame({"item_id": [f"i{k}" for k in range(n)], "title": [f"Title {k}" for k in range(n)]})


def log(users, item_codes, hours):
    """A validated log; `hours` after the first of January 2020."""
    times = pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(hours, unit="h")
    ratings = [1 + code % 5 for code in item_codes]
    items = [f"i{code}" for code in item_codes]
    return validate_interactions(
        pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times, "rating": ratings})
    )


def random_log(n=400, num_users=40, num_items=30, seed=0):
    rng = np.random.default_rng(seed)
    users = [f"u{k}" for k in rng.integers(0, num_users, n)]
    return log(users, rng.integers(0, num_items, n), rng.integers(0, 300, n))  # many ties in time
