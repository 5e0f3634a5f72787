"""What is wrong with a prepared data set before anything is trained on it: leaks, duplicates, shortcuts."""
