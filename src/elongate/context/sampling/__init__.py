"""Samplings, one per file: short sequences with positions of long ones. Start with sampling.py."""
