"""Models: what a network has, how it is built or opened, and the operations that training and evaluation need.

Start with model.py (what the configuration selects), then language_model.py (a network with its
weights).
"""
