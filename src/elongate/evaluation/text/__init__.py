"""Tasks on text from files or from the hub: summarization, translation, question answering, classification and dialogue.

Start with task.py, then written.py (generated answers) and records.py (what a sample contains).
"""
