"""Compares the time of `evaluation=[curve]` with one plain forward pass over the same tokens, in seconds of processor time.

    python benchmarks/curve_cost.py runs/gpt-yarn-default

The plain forward pass is that of transformers with its own attention, in the same batches, and computes the logits of every token. The
order is A B B A, so that a drift of the machine affects both sides equally.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    import numpy as np
    import torch
    import yaml
    from omegaconf import OmegaConf
    from transformers import AutoModelForCausalLM

    from elongate.config import build
    from elongate.data.sequences import held_out
    from elongate.data.tokens import load_corpus
    from elongate.evaluation.curve import BATCH_TOKENS, Curve
    from elongate.evaluation.evaluation import Setting
    from elongate.evaluation.measurement.samples import Samples
    from elongate.models.pretrained import Pretrained
    from elongate.scoring.left_to_right import LeftToRight

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of a causal model")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=2, help="of A B B A")
    given = parser.parse_args()
    config = OmegaConf.create(yaml.safe_load((given.run / "config.yaml").read_text()))
    data = build(config.data, "data")
    tokenizer = build(config.tokenizer, "tokenizer").fit(data)
    corpus = load_corpus(data, tokenizer)
    ours = Pretrained(source=str(given.run / "model")).build(tokenizer.vocab_size, 0)
    plain = AutoModelForCausalLM.from_pretrained(given.run / "model").eval()
    evaluation = Curve(length=given.length)
    texts = held_out(corpus.validation, given.length, evaluation.num_sequences).tokens
    rows = max(1, BATCH_TOKENS // given.length)

    def curve() -> float:
        samples = Samples().part("curve", "after")
        setting = Setting(corpus.validation, tokenizer, 256, 1024, 0, LeftToRight(), samples)
        table = evaluation.measure(ours, setting, lambda text: None)["fine"]["loss"]
        return float(np.mean(table))

    def forward() -> float:
        losses = []
        with torch.no_grad():
            for i in range(0, len(texts), rows):
                tokens = torch.from_numpy(texts[i : i + rows])
                logits = plain(tokens, use_cache=False).logits[:, :-1]
                losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item())
        return float(np.mean(losses))

    times: dict[Callable[[], float], list[float]] = {curve: [], forward: []}
    for side in (curve, forward, forward, curve) * given.repeats:
        began = time.process_time()
        loss = side()
        times[side].append(time.process_time() - began)
        print(f"{side.__name__:<8}{times[side][-1]:8.2f} s   loss {loss:.4f}", flush=True)
    print(f"curve / forward: {statistics.median(times[curve]) / statistics.median(times[forward]):.3f}  ({texts.size:,} tokens)")


if __name__ == "__main__":
    main()
