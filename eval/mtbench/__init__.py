"""Multilingual MT-Bench: two turns, graded."""
