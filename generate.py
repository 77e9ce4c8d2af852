"""Continues texts with a run or any causal transformers checkpoint: `python generate.py checkpoint=<folder> prompt=<text>`."""

from elongate.cli import generate

if __name__ == "__main__":
    generate()
