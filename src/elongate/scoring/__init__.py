"""Scoring a model: the loss of each token, the probability of an answer, and greedy decoding.

One `Scorer` per way of reading: left to right, filling in hidden tokens, or segment by segment.
Start with scorer.py (the interface), then left_to_right.py.
"""
