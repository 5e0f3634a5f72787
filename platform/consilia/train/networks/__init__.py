"""timm models by name, their weights and features."""
