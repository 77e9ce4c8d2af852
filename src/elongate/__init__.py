"""Elongate extends the context length of language models and shows what the extension bought."""

__version__ = "0.1.0"
