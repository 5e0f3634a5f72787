"""Networks: timm is the registry, and this package its only importer."""
