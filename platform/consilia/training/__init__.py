"""Training: one trial is a cross-validation, in plain PyTorch."""
