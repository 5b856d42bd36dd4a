"""The Bazaar: a generated world in which the reasons behind each purchase are known."""
