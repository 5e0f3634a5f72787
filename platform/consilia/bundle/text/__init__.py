"""What cards, errors and terminals call things."""
