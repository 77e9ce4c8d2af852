"""Tokenizers: raw bytes, a BPE trained on the data, or the tokenizer of a checkpoint.

Read `tokenizer.py` first. `subword.py` and `folder.py` read and write the files of a tokenizer.
"""
