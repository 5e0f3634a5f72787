"""From finished trials to one calibrated predictor that can be trusted and shared."""
