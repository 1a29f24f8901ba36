"""Who judges: a local model, an endpoint, a custom class."""
