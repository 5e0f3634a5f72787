"""A bundle in memory: images in, calibrated predictions out."""
