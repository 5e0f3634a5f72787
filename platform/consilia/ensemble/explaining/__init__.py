"""Where in an image an ensemble found what speaks for a class."""
