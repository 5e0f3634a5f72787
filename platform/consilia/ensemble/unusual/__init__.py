"""Which images an ensemble knows nothing of."""
