"""What turns a combination's probabilities into honest ones, here and in another population."""
