"""An OpenAI-compatible API, paid once."""
