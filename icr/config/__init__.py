"""What a user may set. Imports no torch, transformers or pyarrow."""
