"""Recipes: the schema of a training run's TOML file, its presets, and the recipes that come with the package."""
