"""Every choice in conf/ names a class whose fields and defaults are those of the YAML."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted([*CONF.glob("data/*.yaml"), *CONF.glob("tokenizer/*.yaml")])


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_yaml_and_dataclass_say_the_same(path):
    node = OmegaConf.load(path)
    target = get_class(node.pop("_target_"))
    assert target.__module__.split(".")[-1] == path.stem
    defaults = {field.name: "???" if field.default is MISSING else field.default for field in fields(target)}
    assert OmegaConf.to_container(node) == defaults
    OmegaConf.merge(OmegaConf.structured(target), node)


def test_paths_come_from_the_command_line_alone_and_as_lists():
    with initialize_config_dir(str(CONF), version_base=None):
        one = compose(None, overrides=["+data=text", "data.path=a.txt"])
        several = compose(None, overrides=["+data=jsonl", "data.path=[a.jsonl,b/*.jsonl]"])
    assert (one.data.path, several.data.path) == ("a.txt", ["a.jsonl", "b/*.jsonl"])
