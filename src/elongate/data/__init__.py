"""From documents to batches: sources, tokenizers, the token cache and the sequences that are cut from it."""
