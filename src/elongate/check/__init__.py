"""`elongate-check`: verifies a position or an attention, usually the user's own. Start with command.py."""
