"""Implicit Cross-Lingual Rewarding: an English-aligned model teaches itself to answer in other languages."""

__version__ = "0.1.0"
