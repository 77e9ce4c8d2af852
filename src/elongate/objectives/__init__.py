"""Objectives: what is learned. Each turns sequences into inputs, targets and weights of one weighted cross-entropy.

Start with objective.py (`Example` and the interface), then causal.py. How a model is scored is in
scoring/.
"""
