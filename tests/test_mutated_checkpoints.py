"""hypothesis: a checkpoint whose files are changed opens or is refused in one line."""

from __future__ import annotations

import copy
import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elongate.data.jsonl import Jsonl
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.pretrained import Pretrained as PretrainedTokenizer
from elongate.errors import ConfigError
from elongate.models.compatibility import check_network
from elongate.models.pretrained import Pretrained

SETTINGS = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")
VALUES = [None, True, 0, 1, -1, 2**31, 10**30, 0.5, -1e300, "", "word", "64", [], [1], ["a"], {}, {"a": 1}, [[[[[]]]]]]
Mutation = tuple[str, str, int, int]  # file, kind, place and value


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    scaled = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32}
    config = transformers.LlamaConfig(vocab_size=258, max_position_embeddings=64, rope_parameters=scaled, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    ByteTokenizer().save(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.split_special_tokens = False
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.save_pretrained(folder)
    return folder


def mutations() -> st.SearchStrategy[Mutation]:
    kinds = st.sampled_from(["drop", "replace", "replace", "replace", "bytes", "cut"])
    return st.tuples(st.sampled_from(FILES), kinds, st.integers(0, 9999), st.integers(0, len(VALUES) - 1))


def mutate(folder: Path, mutation: Mutation) -> None:
    name, kind, place, value = mutation
    content = (folder / name).read_bytes()
    header, rest = _parts(content, name)
    if kind == "cut":
        content = content[: place % len(content)]
    elif kind == "bytes":
        at = place % min(len(content), 400)
        content = content[:at] + bytes([value * 13 % 256]) + content[at + 1 :]
    else:
        tree = json.loads(header)
        places = list(_places(tree))
        where, key = places[place % len(places)]
        if kind == "drop":
            del where[key]
        else:
            where[key] = copy.deepcopy(VALUES[value])
        header = json.dumps(tree).encode()
        content = header if name.endswith("json") else struct.pack("<Q", len(header)) + header + rest
    (folder / name).write_bytes(content)


def _parts(content: bytes, name: str) -> tuple[bytes, bytes]:
    """The JSON of a file and what follows it: the tensors of a safetensors file."""
    if name.endswith("json"):
        return content, b""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return content[8:end], content[end:]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key in a tree, at most the first entries of a container, so that vocabularies do not outweigh the rest."""
    keys = list(tree)[:12] if isinstance(tree, dict) else range(min(3, len(tree)))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def outcome(checkpoint: Path, mutation: Mutation) -> str:
    """`opened` or `refused`."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "mutated"
        shutil.copytree(checkpoint, folder)
        mutate(folder, mutation)
        before = {path.name for path in folder.iterdir()}
        line = refusal(folder)
        assert "\n" not in line
        assert {path.name for path in folder.iterdir()} == before
    return "refused" if line else "opened"


def refusal(folder: Path) -> str:
    """The line with which the checkpoint is refused; empty if it opens."""
    try:
        tokenizer = PretrainedTokenizer(source=str(folder)).fit(Jsonl(path="unused"))
        model = Pretrained(source=str(folder))
        assert model.original_length is None or model.original_length > 0
        opened = model.build(tokenizer.vocab_size, 0)
        check_network(opened)
        opened.hidden(torch.as_tensor(tokenizer.begin(tokenizer.encode("a short text")))[None])
    except ConfigError as fault:
        return str(fault)
    return ""


@pytest.mark.slow
@settings(SETTINGS, max_examples=20)
@given(mutation=mutations())
def test_a_mutated_checkpoint_opens_or_is_refused(mutation: Mutation, checkpoint: Path) -> None:
    outcome(checkpoint, mutation)


@pytest.mark.grid
@pytest.mark.parametrize("file", FILES)
@settings(SETTINGS, max_examples=200)
@given(mutation=mutations())
def test_a_file_of_a_checkpoint_is_mutated(file: str, mutation: Mutation, checkpoint: Path) -> None:
    outcome(checkpoint, (file, *mutation[1:]))
