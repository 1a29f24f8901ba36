"""The loop: rounds, stages, and how they resume."""
