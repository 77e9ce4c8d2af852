"""Optimizers, one per file. Read optimizer.py first."""
