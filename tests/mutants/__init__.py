"""Planted faults that the tests must catch; `make mutants` runs `python -m tests.mutants`."""
