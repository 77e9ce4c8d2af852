"""A precision that a processor has no instructions for."""

from __future__ import annotations

import pytest
import torch

from elongate.training.device import warn_of_slow_precision


@pytest.mark.parametrize(
    ("precision", "device", "able", "warned"),
    [
        ("bf16", "cpu", False, True),
        ("bf16", "cpu", True, False),
        ("bf16", "cuda", False, False),
        ("fp32", "cpu", False, False),
    ],
)
def test_bfloat16_in_software_is_warned_of(
    precision: str, device: str, able: bool, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    warn_of_slow_precision(precision, torch.device(device))
    assert ("warning: precision=bf16: this processor has no instructions" in capsys.readouterr().err) == warned


def test_what_torch_is_asked_is_there() -> None:
    assert isinstance(torch.ops.mkldnn._is_mkldnn_bf16_supported(), bool)
