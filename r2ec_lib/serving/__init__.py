"""A trained R²ec at work: lists for every shopper, items that come and go. Nothing here trains or measures."""
