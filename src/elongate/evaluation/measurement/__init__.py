"""What evaluations measure with: held-out texts, statistics and intervals, costs, and the samples written to samples.jsonl.

Start with contexts.py, which most evaluations use.
"""
