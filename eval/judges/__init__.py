"""Who judges: a local model, an endpoint, a class of the user's own."""
