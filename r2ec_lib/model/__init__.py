"""R²ec itself: what it reads, how it encodes, writes and scores. `R2ec` is the whole model; the rest are its parts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2ec_lib.model.r2ec import R2ec
else:

    def __getattr__(name):
        """Loads the whole model when it is asked for; that takes seconds, which those of a part alone would wait."""
        if name == "R2ec":
            from r2ec_lib.model.r2ec import R2ec

            return R2ec
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["R2ec"]
