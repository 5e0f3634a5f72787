"""Lists the images that a card describes, with labels and patients, before any is decoded."""
