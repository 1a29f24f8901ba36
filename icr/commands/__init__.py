"""The command line and the worker's entry point."""
