"""Judging: what a trained policy is worth, and the statistics behind the numbers."""
