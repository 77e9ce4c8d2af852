"""From documents to batches: sources, tokenizers, the token cache and training sequences.

Read `source.py` first, then `tokens.py` and `sequences.py`. Each source is in the file of its word in `data=`.
"""
