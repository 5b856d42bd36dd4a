"""R²ec and RecPO: a recommender that reasons. Each sub-package is one room; the README has the plan of the house."""
