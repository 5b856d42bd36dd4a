"""What a reasoning says, whether it is true, and what it does to the recommendation."""
