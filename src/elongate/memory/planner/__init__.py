"""Predicts what a training step costs under each memory plan. Start with planner.py.

step_costs.py extrapolates from dry runs (dry_run.py), which count operators (operators.py); throughput.py measures the device.
"""
