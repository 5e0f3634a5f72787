"""What a finished ensemble is worth on images that nothing was chosen on."""
