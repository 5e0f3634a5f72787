"""What images a card names, with their labels and patients, before any is decoded."""
