"""Writes text with a model: sampling.py chooses tokens, writing.py continues prompts, batch.py answers the prompts of a file."""
