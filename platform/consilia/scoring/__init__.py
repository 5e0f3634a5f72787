"""Metrics of class probabilities, and how sure of them one may be."""
