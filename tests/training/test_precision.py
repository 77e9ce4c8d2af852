"""The warning for a precision that the processor has no instructions for."""

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
def test_bfloat16_without_hardware_support_gives_a_warning(
    precision: str, device: str, able: bool, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    warn_of_slow_precision(precision, torch.device(device))
    assert ("warning: precision=bf16: this processor has no instructions" in capsys.readouterr().err) == warned


def test_the_functions_of_torch_that_detect_bfloat16_exist() -> None:
    assert isinstance(torch.ops.mkldnn._is_mkldnn_bf16_supported(), bool)
