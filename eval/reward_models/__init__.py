"""Reward models: accuracy beside baselines, and benchmarks."""
