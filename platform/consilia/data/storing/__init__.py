"""A data set decoded once, memory-mapped, with its index and its manifest."""
