"""Context strategies: position (where is each token?), attention (who sees whom?), curriculum (how does the length
grow?) and sampling (which positions are trained?). Start with strategy.py, which combines them.
"""
