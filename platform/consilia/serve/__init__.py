"""A page and an API to try an ensemble: FastAPI around the predictor, on loopback unless a token guards it."""
