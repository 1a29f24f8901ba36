"""Templates as text files, parallel prompt sets, and the loader that joins them by id."""
