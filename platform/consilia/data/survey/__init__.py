"""Looks at folders, tables and pixels that no card describes yet, and proposes what a card would say of them."""
