"""Precisions that a device lacks, or computes slowly, and the package that one of them needs."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from elongate.errors import ConfigError
from elongate.training.device import check_precision


@pytest.mark.parametrize(
    ("precision", "device", "able", "warned"),
    [
        ("bf16", "cpu", False, True),
        ("bf16", "cpu", True, False),
        ("fp32", "cpu", False, False),
    ],
)
def test_bfloat16_without_hardware_support_gives_a_warning(
    precision: str, device: str, able: bool, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    check_precision(precision, torch.device(device))
    assert ("warning: precision=bf16: this processor has no instructions" in capsys.readouterr().err) == warned


def test_the_functions_of_torch_that_detect_bfloat16_exist() -> None:
    assert isinstance(torch.ops.mkldnn._is_mkldnn_bf16_supported(), bool)


@pytest.mark.parametrize("precision", ["bf16", "bf16_pure"])
def test_a_card_without_bfloat16_is_refused(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elongate.training.optimizer.eight_bit.find_spec", lambda name: name)
    monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext())
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    check_precision("fp32", torch.device("cuda:0"))
    message = rf"^precision={precision}: cuda:0 \(Tesla T4\) has no bfloat16; use precision=fp32, or a card of 2020 or later$"
    with pytest.raises(ConfigError, match=message):
        check_precision(precision, torch.device("cuda:0"))
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: not including_emulation)
    check_precision(precision, torch.device("cuda:0"))


def test_bf16_pure_needs_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elongate.training.optimizer.eight_bit.find_spec", lambda name: None)
    message = r"^precision=bf16_pure: torchao is not installed; pip install 'elongate\[pure\]', or use precision=bf16$"
    with pytest.raises(ConfigError, match=message):
        check_precision("bf16_pure", torch.device("cpu"))
