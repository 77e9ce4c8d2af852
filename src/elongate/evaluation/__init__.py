"""Evaluations: what a model is measured by, before and after the extension.

Start with evaluation.py (the interface), then curve.py. measurement/ has what evaluations share,
presentation/ how they are shown.
"""
