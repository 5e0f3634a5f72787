"""What is wanted and what happened: frozen plans, records, YAML without lost keys, content by name."""
