"""How good a recommender is, how sure that is, and at what cost."""
