"""One run: base training, extension, export, measurement and report.

Read run.py first, then loop.py. validate.py lists all checks in their order.
"""
