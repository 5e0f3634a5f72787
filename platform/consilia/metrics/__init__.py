"""Metrics of class probabilities, with intervals over patients."""
