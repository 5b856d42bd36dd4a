"""A trained R²ec at work: lists for every shopper, items that come and go, and a student that answers at once."""
