"""Configurations that cannot work: one line that names the key, the value, the rule and the remedy, before torch is imported."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from elongate.build import build_job
from elongate.cli import conf_directory
from elongate.errors import ConfigError
from tests.commands import Command
from tests.conftest import composed

# Words that Hydra or the reader of the command line refuses, and some that are refused when the job is built.
COMMAND_LINES = [
    ("stepz=10", "stepz=10: there is no such key; did you mean steps?"),
    ("+stepz=10", "stepz=10: there is no such key; did you mean steps?"),
    ("lr=3e-4", "lr=0.0003: there is no such key; did you mean optimizer.lr?"),
    ("optimizer.learning_rat=1", "optimizer.learning_rat=1: there is no such key; there are optimizer.beta1"),
    (
        "context.position.beta_fas=1",
        "context.position.beta_fas=1: there is no such key; did you mean context.position.beta_fast?",
    ),
    ("context.factor=8", "context.factor=8: there is no such key; there are context.from, context.target_length,"),
    (
        "optimizer.momentum=0.9",
        "optimizer.momentum=0.9: is a key of optimizer=muon, which is not chosen; add optimizer=muon",
    ),
    ("steps=many", "steps=many: must be an integer"),
    (
        "context.position=yarn",
        "context.position=yarn: is a group, and groups are written with slashes; use context/position=yarn",
    ),
    ("optimizer=Adam", "optimizer=Adam: there is no such choice; did you mean adamw?"),
    ("evaluation=[curv]", "evaluation=[curv]: there is no choice curv; did you mean curve?"),
    ("evaluation=none", "evaluation=none: there is no such choice; use evaluation=[]"),
    ("context=null", "context=null: is not a choice; choose one of abf"),
    ("experiment=smok", "experiment=smok: there is no such choice; did you mean smoke?"),
    ("~optimizer", "optimizer: is required; remove ~optimizer"),
    (
        "data=[text,jsonl]",
        "data=[text,jsonl]: takes one word; use data=text, or compare them in a sweep: -m data=text,jsonl",
    ),
    ("optimizer=[adamw,muon]", "optimizer=[adamw,muon]: takes one word; use optimizer=adamw"),
    ("data.path=x", "data.path=x: is a key of data=text or data=jsonl or data=hub, which is not chosen; add data=text"),
    ("--steps=0", "steps=0: must be at least 1"),
    ("~steps", "steps: is required; remove ~steps"),
    (
        "tuning.rank=4",
        "tuning.rank=4: is a key of tuning=lora or tuning=lora_plus, which is not chosen; add tuning=lora",
    ),
    ("seed=-1", "seed=-1: must be at least 0; use seed=0"),
    ("hydra.run.dir=", "hydra.run.dir: is empty"),
    ("data=text", "data.path=???: must be given; add data.path=…"),
    ("data=text data.path=missing.txt", "data.path=missing.txt: no such file or folder; give data.path a file"),
    ("data=text data.path=~/x.txt", "data.path=~/x.txt: ~ is not expanded inside an override; write data.path=/"),
    (
        "model=pretrained model.source=/nowhere",
        "model.source=/nowhere: there is no such folder; name a folder written by save_pretrained",
    ),
    (
        "context=interpolate",
        "context/position=interpolate: needs a table of learned positions, which model=gpt does not have; use",
    ),
    ("model=gpt2 context=none", "use context/position=interpolate, or context=none with context.target_length=256"),
    ("steps=[1", "command line=steps=[1: is not an override; write key=value"),
    ("--lr 3e-4", "command line=unrecognized arguments: --lr: is not understood; write key=value"),
    (
        "steps=10,20",
        "steps=10,20: is several values, which make a sweep; add -m to the command line, or quote what is one value",
    ),
    (
        "+context.position.beta_fas=1",
        "context.position.beta_fas=1: there is no such key; did you mean context.position.beta_fast?",
    ),
    ("context.curriculum.base.stepz=1", "did you mean context.curriculum.base.steps?"),
    (
        "model.source=./checkpoint",
        "model.source=./checkpoint: is a key of model=pretrained, which is not chosen; add model=pretrained",
    ),
]

# Words that the classes of the job refuse.
CONFIGURATIONS = [
    (
        "evaluation=[curve,needle] sweep.metric=curv/after/512-1024",
        "sweep.metric=curv/after/512-1024: must begin with a chosen evaluation: curve, needle; use sweep.metric=curve/…",
    ),
    (
        "evaluation=[gate]",
        "evaluation=[gate]: gate compares the samples of curve or retrieval, and neither is chosen; use evaluation=[curve,gate]",
    ),
    ("steps=1e3", "steps=1000.0: must be an integer; use steps=1000"),
    ("overwrite=maybe", "overwrite=maybe: must be true or false; write it like overwrite=true"),
    (
        "evaluation=[needle] evaluation.needle.depths=0.5",
        "must be a list, each element a number; write it like evaluation.needle.depths=[0.5]",
    ),
    ("context.target_length=100k", "context.target_length=100k: must be an integer; use context.target_length=102400"),
    (
        "context.target_length=far",
        "context.target_length=far: must be an integer; write it like context.target_length=4096",
    ),
    ("batch_tokens=8k", "batch_tokens=8k: must be an integer; use batch_tokens=8192"),
    ("steps=1.5k", "steps=1.5k: must be an integer; use steps=1500"),
    ("context.target_length=128", "context.target_length=128: is below the model's original length of 256"),
    ("context.target_length=0", "context.target_length=0: must be at least 1"),
    ("steps=0", "steps=0: must be at least 1"),
    ("optimizer.lr=-1", "optimizer.lr=-1.0: must be above 0; use optimizer.lr=0.001"),
    ("optimizer.lr=inf", "optimizer.lr=inf: must be a finite number"),
    ("model.original_length=-256", "model.original_length=-256: must be at least 1"),
    ("evaluation.curve.length=0", "evaluation.curve.length=0: must be at least 2"),
    ("batch_tokens=512", "batch_tokens=512: is less than one sequence of 1024 tokens; use batch_tokens=1024 or more"),
    ("tuning=lora tuning.rank=0", "tuning.rank=0: must be at least 1; use tuning.rank=8"),
    ("tuning=lora tuning.alpha=0", "tuning.alpha=0.0: must be above 0; use tuning.alpha=16"),
    ("tuning=lora_plus tuning.dropout=1", "tuning.dropout=1.0: must be in [0, 1); use tuning.dropout=0"),
    ("tuning=lora tuning.dropout=-0.1", "tuning.dropout=-0.1: must be in [0, 1)"),
    ("tuning=lora tuning.targets=[]", "tuning.targets=[]: is empty; use tuning.targets=null"),
    (
        "tuning=lora tuning.targets=q_proj",
        "must be a list, each element a word or null; write it like tuning.targets=[q_proj]",
    ),
    (
        "context/position=longrope context.position.long_factor=[1,2]",
        "long_factor=[1.0,2.0]: must have a factor for each of the 8 pairs",
    ),
    (
        "context/position=longrope context.position.long_factor=[1,nan]",
        "long_factor=nan: must be a finite number, at least 1",
    ),
    (
        "context/position=longrope context.position.factors=missing.json",
        "factors=missing.json: cannot be read: No such file",
    ),
    ("context/position=abf context.position.theta=5000", "theta=5000: must be above the model's own theta of 10000"),
    (
        "objective=distillation objective.teacher.revision=main",
        "objective.teacher.revision=main: has no effect without a source; use objective.teacher.revision=null",
    ),
    (
        "objective=distillation objective.teacher.source=./missing",
        "objective.teacher.source=./missing: there is no such folder; name a folder",
    ),
    (
        "objective=distillation context/curriculum=fixed",
        "context/curriculum=fixed: trains no base, and objective=distillation would learn from a model with random weights; use",
    ),
    (
        "objective=restore batch_tokens=1024",
        "batch_tokens=1024: is less than two sequences of 1024 tokens, one of which is cut into short texts; use batch_tokens=2048",
    ),
    (
        "model=bert objective.mask_ratio=0",
        "objective.mask_ratio=0.0: must be above 0 and below 1; use objective.mask_ratio=0.15",
    ),
    (
        "model=bert objective.mask_ratio=1",
        "objective.mask_ratio=1.0: must be above 0 and below 1; use objective.mask_ratio=0.15",
    ),
    (
        "objective=masked",
        "objective=masked: needs a model that fills in what is masked, which model=gpt does not; use objective=causal",
    ),
    (
        "model=bert objective=causal",
        "objective=causal: needs a model that reads from left to right, which model=bert does not; use objective=masked",
    ),
    ("model=bert model.dropout=1", "model.dropout=1.0: must be at least 0 and below 1; use model.dropout=0.0"),
    ("model=bert model.dim=129", "model.dim=129: must be a multiple of num_heads=2; use model.dim=128"),
    ("precision=fp16", "precision=fp16: must be one of fp32, bf16, bf16_pure"),
    (
        "precision=bf16_pure optimizer=muon",
        "precision=bf16_pure: needs an optimizer that rounds its updates stochastically, and optimizer=muon rounds to the nearest; "
        "use optimizer=adamw, or precision=bf16",
    ),
    (
        "precision=bf16_pure tuning=lora",
        "precision=bf16_pure: trains the network's own weights in bfloat16, and tuning=lora trains others, which need little memory; "
        "use precision=bf16, or tuning=full",
    ),
    ("kernels=triton", "kernels=triton: must be one of auto, none, liger; use kernels=auto"),
    ("kernels=liger compile=true", "kernels=liger: cannot be combined with compile=true, which fuses the same layers; use kernels=auto"),
    ("device=nonsense", "device=nonsense: must be auto, cpu, cuda or cuda:<number>; use device=auto"),
    ("name=a/b", "name=a/b: must be part of a directory name, without a slash"),
    ("tracking.mode=offlin", "tracking.mode=offlin: must be online, offline, disabled or null"),
    (
        "model=pretrained model.source=.",
        "model.source=.: is not a checkpoint: it contains no config.json; name a folder written by save_pretrained",
    ),
    (
        "model=gpt2 context=yarn",
        "context/position=yarn: needs rotary positions, which model=gpt2 does not have; use context/position=interpol",
    ),
    (
        "model=bert context=pose",
        "context/position=yarn: needs rotary positions, which model=bert does not have; use context/position=interpol",
    ),
    (
        "model=gpt2 context=tile context.target_length=1000",
        "context.target_length=1000: must be a multiple of the original length of 256: "
        "context/position=tile repeats the table; use context.target_length=1024",
    ),
    (
        "context=pose data.isolate_documents=true",
        "context/sampling=pose: cannot be combined with data.isolate_documents=true",
    ),
    (
        "context=randomized context/attention=self_extend",
        "context/sampling=randomized: cannot be combined with context/attention=self_extend",
    ),
    (
        "context=pose context.target_length=256",
        "is the model's original length: context/sampling=pose has no further positions to sample",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "line"), COMMAND_LINES, ids=[words for words, _ in COMMAND_LINES])
def test_a_command_line_that_cannot_work_is_one_line(words: str, line: str, here: Command, tmp_path: Path) -> None:
    reported = here("train", *words.split()).reported(2)
    assert reported.startswith(line) or line in reported
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("words", "line"), CONFIGURATIONS, ids=[words for words, _ in CONFIGURATIONS])
def test_a_configuration_that_cannot_work_is_one_line(words: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_job(*configured(words))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def configured(words: str) -> tuple[Any, dict[str, str]]:
    """The configuration and its choices. Values are merged into a composition that all tests share."""
    parsed = OverridesParser.create().parse_overrides(words.split())
    choices = [o.input_line for o in parsed if (conf_directory() / o.key_or_group).is_dir()]
    config, chosen = base(*choices)
    values = [
        OmegaConf.create({}),
        *(OmegaConf.from_dotlist([f"{o.key_or_group}={o.value()}"]) for o in parsed if o.input_line not in choices),
    ]
    return OmegaConf.merge(config, *values), chosen


@cache
def base(*choices: str) -> tuple[Any, dict[str, str]]:
    return composed(*choices)


EVALUATE = [
    ("", "checkpoint=???: must be given"),
    ("chekpoint=x", "chekpoint=x: there is no such key; did you mean checkpoint?"),
    ("checkpoint=/nowhere", "checkpoint=/nowhere: there is no such folder; name a folder written by save_pretrained"),
    ("checkpoint=.", "checkpoint=.: is not a checkpoint: it contains no config.json"),
    (
        "checkpoint=. context.target_length=0",
        "context.target_length=0: must be at least 1; use context.target_length=null",
    ),
    (
        "checkpoint=. target_length=8192",
        "target_length=8192: there is no such key; did you mean context.target_length?",
    ),
    (
        "checkpoint=. original_length=64",
        "original_length=64: there is no such key; did you mean model.original_length?",
    ),
    (
        "checkpoint=. context/attention@attention=window",
        "context/attention@attention=window: there is no such key; use context/attention=window",
    ),
    (
        "checkpoint=. context/attention=[window,full]",
        "context/attention=[window,full]: takes one word; use context/attention=window",
    ),
    (
        "checkpoint=. context.attention=window",
        "context.attention=window: there is no such key; did you mean context/attention?",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "line"), EVALUATE, ids=[words or "nothing" for words, _ in EVALUATE])
def test_an_evaluation_that_cannot_work_is_one_line(words: str, line: str, here: Command, tmp_path: Path) -> None:
    assert here("evaluate", *words.split()).reported(2).startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_the_traceback_is_shown_on_request(here: Command) -> None:
    ended = here("train", "steps=0", HYDRA_FULL_ERROR="1")
    assert ended.code == 2
    assert ended.lines[0] == "Traceback (most recent call last):"
    assert ended.lines[-1].startswith("error: steps=0")
