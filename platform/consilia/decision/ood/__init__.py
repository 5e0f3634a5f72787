"""Images unlike those of the training: distance in features, and rules on the input."""
