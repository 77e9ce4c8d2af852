"""What evaluations measure with: held-out texts, statistics, intervals, costs, and samples.jsonl.

Start with contexts.py, which most evaluations use.
"""
