"""What a bundle does to the outputs of its networks, as frozen objects."""
