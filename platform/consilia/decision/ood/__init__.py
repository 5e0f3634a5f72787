"""Images unlike those of the training: distance from the nearest of them, and rules on the input."""
