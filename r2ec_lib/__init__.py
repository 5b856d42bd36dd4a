"""R²ec and RecPO: a recommender that reasons."""
