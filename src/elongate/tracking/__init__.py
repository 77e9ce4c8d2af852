"""Trackers show a run in W&B or TensorBoard while it trains: one file per tracker, named like its word in `tracking=`.

Read `tracker.py` first. `metrics.jsonl` is the record of a run; a tracker only displays it.
"""
