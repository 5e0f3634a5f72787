"""A bundle in memory: networks, images, predictor, explanations."""
