"""The image store: a data set decoded once."""
