"""Retrieval problems: a fact hidden in a long text, a question about it, a right and a wrong answer.

Read `tasks.py` first. `sample.py` lays a problem out in tokens; `retrieval.py` is the source `data=retrieval`.
"""
