"""Recipes: one YAML each, and the DeepSpeed settings they name."""
