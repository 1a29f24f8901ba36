"""The loop: rounds, stages, and how they go on after any end."""
