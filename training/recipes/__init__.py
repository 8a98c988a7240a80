"""Recipes: short files that say what `bark-tf train` does; each runs by its name."""
