"""Speed: this library and the plain way to the same result, timed in turn."""
