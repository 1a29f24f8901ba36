"""Ground: files, errors, progress, processes. Knows no model and no method."""
