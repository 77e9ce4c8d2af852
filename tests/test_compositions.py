"""Compositions that the tests keep are those that Hydra makes anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from elongate.cli import conf_directory
from tests import compositions
from tests.compositions import compose_anew, keep_compositions
from tests.conftest import composed


def _composed(*words: str, folder: Path | None = None) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder or conf_directory()), version_base="1.3"):
        return compose("train", overrides=list(words), return_hydra_config=True)


def _nodes(node: Any, path: str = "") -> dict[str, Any]:
    """The type, flags, package of types and value of a node and of all below it, by their paths."""
    metadata = node._metadata
    found = {path: (type(node), metadata.flags, metadata.ref_type, metadata.object_type, metadata.optional, metadata.key)}
    if isinstance(node, DictConfig | ListConfig) and isinstance(node._content, dict | list):
        keys = list(node._content) if isinstance(node, DictConfig) else range(len(node._content))
        for key in keys:
            found |= _nodes(node._get_node(key), f"{path}/{key}")
    else:
        found[path] += (node._value(),)
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["steps=3", "model.dim=64"],
        ["experiment=smoke", "evaluation=[curve,needle]", "evaluation.curve.num_sequences=4"],
        ["context=window", "objective=masked", "+notes={a:[1,2]}", "~tracking", "hydra.job.name=x"],
    ],
)
def test_a_kept_composition_is_a_new_one(words: list[str]) -> None:
    compose_anew()
    try:
        new = _nodes(_composed(*words))
    finally:
        keep_compositions()
    values = [word for word in words if "." in word or word.startswith("steps")]
    _composed(*(word for word in words if word not in values))  # the same groups with other values
    first = _composed(*words)
    assert _nodes(first) == new
    with open_dict(first):  # users of one composition do not change the next
        first.model.dim = 96
        first.hydra.runtime.choices.clear()
        first.pop("context")
    assert _nodes(_composed(*words)) == new


def test_compositions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    composed("context=yarn", "steps=3")
    for name in ("_LOAD", "_LIST", "_MERGE"):
        monkeypatch.setattr(compositions, name, None)
    config, choices = composed("context=yarn", "steps=4")
    assert (config.steps, choices["context"]) == (4, "yarn")


def test_a_wrong_word_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(MissingConfigException, match="Could not find 'context/nothing'"):
            composed("context=nothing")


def test_other_folders_are_read_each_time(tmp_path: Path) -> None:
    for value in (1, 2):
        (tmp_path / "train.yaml").write_text(f"value: {value}\n")
        assert OmegaConf.select(_composed(folder=tmp_path), "value") == value
