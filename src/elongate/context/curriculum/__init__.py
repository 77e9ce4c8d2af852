"""Curricula, one per file: lists of training stages. Start with curriculum.py."""
