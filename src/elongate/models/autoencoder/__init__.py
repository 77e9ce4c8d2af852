"""The network of the bidirectional autoencoder; start with network.py, whose first lines describe it.

`Autoencoder` (autoencoder.py) wraps it for training and evaluation; model=bidirectional_autoencoder
builds it.
"""
