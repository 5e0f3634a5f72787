"""What numbers and choices are called in model cards, errors and terminals."""
