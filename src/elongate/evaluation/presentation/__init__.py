"""How evaluations are shown: tables, figures, sentences and scalars made from their sections of results.json.

Start with presentation.py, the interface and its defaults; section.py has the parts of a page. Nothing here
imports numpy.
"""
