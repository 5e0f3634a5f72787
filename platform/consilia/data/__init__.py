"""Images in: cards are listed, decoded once into a store, and divided into folds."""
