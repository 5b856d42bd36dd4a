"""R²ec itself: what it reads, how it encodes, writes and scores. `R2ec` is the whole model; the rest are its parts."""

from r2ec_lib.model.r2ec import R2ec

__all__ = ["R2ec"]
