"""Attention patterns, one per file; kernel/ contains the machinery that computes them.

Start with attention.py (the base classes) and window.py (the simplest pattern).
"""
