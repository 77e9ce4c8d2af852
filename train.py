"""Trains one model, extends its context and shows what that bought: `python train.py --help`."""

from elongate.cli import train

if __name__ == "__main__":
    train()
