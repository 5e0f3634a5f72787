"""The search: Optuna suggests, racing decides, slots train."""
