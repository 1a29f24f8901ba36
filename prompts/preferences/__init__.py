"""Preference data: pairs of a better and a worse response, and responses with a label, in the forms people publish."""
