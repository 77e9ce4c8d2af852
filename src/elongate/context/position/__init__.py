"""Positions, one method per file.

Start with position.py (the base class) and scaling.py (rotary frequencies), then read a method such as yarn.py.
"""
