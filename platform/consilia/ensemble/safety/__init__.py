"""What a predictor promises beyond a probability, when it asks for a person, and what became of it."""
