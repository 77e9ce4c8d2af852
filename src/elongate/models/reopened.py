"""Opens an exported folder as its readers do, and compares it with the network in memory.

Compared are the rotary frequencies and the attention factor, for texts of the original and of the present length, and the
logits of a short text. A small model is opened by `from_pretrained`. Of a large one only config.json is opened: the network
that it describes gets the weights that are in memory, so that no second copy of them exists, and the files are compared with
these one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from elongate import __version__
from elongate.context.attention.full import Full
from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.errors import RunError, first_line
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.models.written_weights import written_difference

SMALL = 1 << 30  # bytes of weights in float32 up to which a model is opened a second time
_PROBE = 128  # tokens of the text whose logits are compared
_LARGEST = 1e-3  # difference of the logits, relative to their norm: the attentions of two implementations differ by 1e-6


def verify_reopened(model: LanguageModel, folder: Path, original_length: int, length: int, small: int = SMALL) -> dict[str, Any]:
    """Return how far the folder, opened by plain transformers, is from the model. Raises `RunError` if it is another model.

    `length`: tokens that the model was extended to.
    """
    if not model.position.is_plain:
        return _verify_own_format(model, folder, small)
    network = model.network
    opened_whole = 4 * model.num_parameters() <= small
    if not opened_whole:
        _require_written(network, folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        reader = _opened(network, folder) if opened_whole else _assembled(network, config)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as fault:
        raise _difference(folder, f"transformers cannot open it ({first_line(fault)})") from fault
    reader.eval()
    lengths = sorted({original_length, length})
    errors = [_rotary_errors(model, reader, read, folder) for read in lengths]
    logits_error = _logits_error(model, reader, folder)
    return {
        "transformers": transformers.__version__,
        "weights": "reread" if opened_whole else "compared",
        "lengths": lengths,
        "frequency_error": max(frequency for frequency, _ in errors),
        "attention_factor_error": max(factor for _, factor in errors),
        "logits_error": logits_error,
    }


def _verify_own_format(model: LanguageModel, folder: Path, small: int) -> dict[str, Any]:
    """The same for a folder that only this package opens."""
    if 4 * model.num_parameters() > small:
        _require_written(model.network, folder)
        return {"weights": "compared"}
    reader = Pretrained(source=str(folder)).build(1, seed=0)
    reader.network.to(model.device)
    return {"elongate": __version__, "weights": "reread", "logits_error": _logits_error(model, reader, folder)}


def _require_written(network: PreTrainedModel, folder: Path) -> None:
    if difference := written_difference(network, folder):
        raise _difference(folder, difference)


def _opened(network: PreTrainedModel, folder: Path) -> PreTrainedModel:
    arguments = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True} | _own_attention(network)
    reader, loaded = type(network).from_pretrained(folder, **arguments)
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"{missing[0]} is missing")
    return reader.to(network.device)


def _own_attention(network: PreTrainedModel) -> dict[str, str]:
    """Return the attention that a network computes without our kernel: Falcon's `sdpa` and `eager` differ with slopes."""
    chosen = network.config._attn_implementation
    return {} if chosen in (None, IMPLEMENTATION) else {"attn_implementation": chosen}


def _assembled(network: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """Return the network of a configuration with the weights of another one."""
    for own in _own_attention(network).values():
        config._attn_implementation = own
    with torch.device("meta"):
        reader: PreTrainedModel = type(network)(config)
    reader.load_state_dict(network.state_dict(), assign=True)
    reader.tie_weights()
    theirs = dict(network.named_modules())
    for name, parent in list(reader.named_modules()):
        for child, module in list(parent.named_children()):
            if _is_rotary(module):
                # A module computes its frequencies when it is created.
                setattr(parent, child, type(module)(module.config).to(network.device))
        for buffer, value in parent.named_buffers(recurse=False):
            if value.is_meta and not buffer.endswith("inv_freq"):
                setattr(parent, buffer, getattr(theirs[name], buffer))
    return reader


def _rotary_errors(model: LanguageModel, reader: PreTrainedModel, length: int, folder: Path) -> tuple[float, float]:
    """Return how far frequencies and attention factor differ in texts of `length` tokens, relative to their size."""
    model.set_text_length(length)
    largest_frequency = largest_factor = 0.0
    for (name, ours), (_, opened) in zip(_rotary(model.network), _rotary(reader), strict=True):
        theirs: Any = type(opened)(opened.config).to(model.device)  # a new one, because dynamic NTK remembers the longest text
        positions = torch.arange(max(0, length - 2), length, device=model.device)[None]
        for layers in _layer_types(ours):
            # As a call of the network does, with the largest position of the text.
            theirs(torch.zeros(1, device=model.device), positions, *layers)
            prefix = "".join(f"{layer}_" for layer in layers)
            found, expected = (getattr(module, f"{prefix}inv_freq").double() for module in (theirs, ours))
            frequency = float((found / expected - 1).abs().nan_to_num(0.0).max())
            factors = [float(getattr(module, f"{prefix}attention_scaling", 1.0)) for module in (theirs, ours)]
            factor = abs(factors[0] / factors[1] - 1)
            if frequency > 1e-5:
                worst = int((found / expected - 1).abs().nan_to_num(0.0).argmax())
                what = f"frequency {worst} of {name} is {found[worst]:.6g} reopened and {expected[worst]:.6g} as trained"
                raise _difference(folder, f"{what}, in texts of {length} tokens")
            if factor > 1e-5:
                raise _difference(folder, f"the attention factor of {name} is {factors[0]:.6g} reopened and {factors[1]:.6g} as trained")
            largest_frequency, largest_factor = max(largest_frequency, frequency), max(largest_factor, factor)
    return largest_frequency, largest_factor


def _logits_error(model: LanguageModel, reader: PreTrainedModel | LanguageModel, folder: Path) -> float:
    blocks = max(1, min(_PROBE, model.original_length) // model.block_length)
    tokens = model.probe_text(blocks * model.block_length)
    attention, model.attention = model.attention, Full()
    with model.probed():
        ours = model.logits(model.hidden(tokens)).double()
        if isinstance(reader, LanguageModel):
            reader.network.eval()
            theirs = reader.logits(reader.hidden(tokens)).double()
        else:
            theirs = _logits(reader(input_ids=tokens)).double()
    model.attention = attention
    error = float((theirs - ours).norm() / ours.norm().clamp(min=1e-30))
    if not error <= _LARGEST:  # also if it is not a number
        raise _difference(folder, f"its logits differ by {error:.1e} of their size")
    return error


def _logits(output: Any) -> Float[Tensor, "batch length vocab"]:
    logits = getattr(output, "logits", None)
    return output.prediction_logits if logits is None else logits  # of BERT with both heads of its pretraining


def _rotary(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in network.named_modules() if _is_rotary(module))


def _is_rotary(module: nn.Module) -> bool:
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _layer_types(module: nn.Module) -> list[tuple[str, ...]]:
    """Return the arguments that choose one set of frequencies of a module: a layer type, or none."""
    kinds = getattr(module, "rope_type", None)
    return [(layer,) for layer in kinds] if isinstance(kinds, dict) else [()]


def _difference(folder: Path, what: str) -> RunError:
    return RunError(f"the export {folder} is not the model that was trained: {what}; this is a fault of Elongate, please report it")
