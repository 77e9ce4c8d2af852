"""Evaluates a run or any transformers checkpoint: `python evaluate.py checkpoint=<folder>`."""

from elongate.cli import evaluate

if __name__ == "__main__":
    evaluate()
