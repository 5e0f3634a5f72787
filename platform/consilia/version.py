"""The version of the package, where every room can read it: a cluster's job has the package without its metadata."""

__version__ = "0.2.0"
