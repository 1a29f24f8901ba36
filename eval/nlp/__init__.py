"""NLP benchmarks by lm-eval."""
