"""The stages of a round, one file each: the driver's half and the worker's."""
