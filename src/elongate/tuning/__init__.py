"""Tuning: which weights the extension trains. Start with tuning.py (the interface), then lora.py."""
