"""How heavy work gets done: workers, shards, progress."""
