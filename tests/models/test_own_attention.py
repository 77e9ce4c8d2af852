"""Networks whose attention does not use the interface of transformers: opened with it, trained, or refused in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.networks import NO_SPECIAL, VOCAB
from torch.nn import functional as F

from elongate.context.attention.full import Full
from elongate.context.attention.window import Window
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.none import Unchanged
from elongate.context.sampling.pose import Pose
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.compatibility import check_isolation, check_network, check_strategy
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.objectives.objective import Example

LENGTH = 24
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon": ("Falcon", {"hidden_size": 32, **HEADS, "alibi": False, "max_position_embeddings": 64}),
    "gpt_neo": (
        "GPTNeo",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    ),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    "codegen": ("CodeGen", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}),
}
TOKENS = torch.randint(VOCAB, (2, LENGTH + 1), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for kind, (name, fields) in OWN.items():
        torch.manual_seed(0)
        built = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(vocab_size=VOCAB, **NO_SPECIAL | fields))
        for parameter in built.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
        built.save_pretrained(folder / kind)
    return folder


def opened(checkpoints: Path, kind: str) -> LanguageModel:
    model = Pretrained(source=str(checkpoints / kind)).build(VOCAB, seed=0)
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN)
def test_loss_and_gradients_are_those_of_transformers(checkpoints: Path, kind: str) -> None:
    plain = getattr(transformers, f"{OWN[kind][0]}ForCausalLM").from_pretrained(checkpoints / kind, attn_implementation="eager").eval()
    loss = F.cross_entropy(plain(TOKENS[:, :-1], use_cache=False).logits.flatten(0, 1), TOKENS[:, 1:].flatten())
    loss.backward()
    whole = torch.stack([p.grad.norm() for p in plain.parameters() if p.grad is not None]).norm()
    for plan in (Plain(), Checkpoint(mlp_chunk_length=10)):
        model = opened(checkpoints, kind)
        check_network(model)
        example = Example(TOKENS[:, :-1], TOKENS[:, 1:], torch.ones(2, LENGTH, dtype=torch.bool), None)
        assert plan.prepare(model, LENGTH).backward(model, example) == pytest.approx(loss.item(), abs=1e-5)
        for ours, theirs in zip(model.network.parameters(), plain.parameters(), strict=True):
            if theirs.grad is not None:
                assert ours.grad is not None
                assert (ours.grad - theirs.grad).norm() <= 1e-5 * whole


@pytest.mark.parametrize("kind", OWN)
def test_what_needs_the_interface_is_refused(checkpoints: Path, kind: str) -> None:
    model = opened(checkpoints, kind)
    with pytest.raises(ConfigError, match=f"memory=stream: cannot train a {kind}, whose attention does not use the interface"):
        Stream().prepare(model, LENGTH)
    with pytest.raises(ConfigError, match=f"isolate_documents=true: cannot isolate the documents of a {kind}, whose attention does"):
        check_isolation(model)
    full, window = (
        Strategy(position=Unchanged(), attention=attention, curriculum=Fixed(), target_length=64)
        for attention in (Full(), Window(window_length=8))
    )
    check_strategy(model, full, 64)
    with pytest.raises(ConfigError, match="context/attention=window: needs attention that goes through the interface of transformers"):
        check_strategy(model, window, 64)


def test_sampled_positions_are_refused_because_they_cannot_be_checked(checkpoints: Path) -> None:
    model = opened(checkpoints, "falcon")
    sampled = Strategy(position=Unchanged(), attention=Full(), curriculum=Fixed(), sampling=Pose(), target_length=4 * 64)
    rule = "context/sampling=pose: cannot act on a falcon, whose attention does not use the interface of transformers"
    with pytest.raises(ConfigError, match=rule):
        check_strategy(model, sampled, 64)
