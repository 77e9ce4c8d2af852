"""Pages, tables and figures of a run and of a sweep, all made from `results.json`.

Start with page.py (one run), then comparison.py (a sweep).
"""
