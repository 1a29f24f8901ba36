"""How a model is run: sampling with vLLM or transformers, loading, precision."""
