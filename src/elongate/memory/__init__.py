"""Memory plans: how training on long sequences fits the machine. Start with memory.py.

plain.py, checkpoint.py and stream.py are plans; auto.py chooses one with planner/, which predicts the cost of each.
"""
