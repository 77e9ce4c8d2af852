"""Tokenizers: raw bytes, a BPE that is trained on the data, or the one a checkpoint brings along."""
