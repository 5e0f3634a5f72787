"""Training: one trial, one fold, one step; no Ray."""
