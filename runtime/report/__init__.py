"""The report of a validation run: JSON, and one page made from it."""
