"""Checks of a network that need its weights: can a strategy act on it, and is its head understood?

Checks that need only the configuration are in `Strategy.check` (context/strategy.py).
"""

from __future__ import annotations

from elongate.context.attention.attention import Attention
from elongate.context.position.scaling import Scaling
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError, first_line
from elongate.foreign import foreign
from elongate.models.calls import tolerance
from elongate.models.language_model import LanguageModel
from elongate.models.parts import layer_config
from elongate.models.probes import attention_error, distance_matters, kernel_rotates_alike, layer_windows
from elongate.models.tables import unknown_table

_OTHER_ARCHITECTURE = "name a checkpoint of another architecture"


def check_strategy(model: LanguageModel, strategy: Strategy, original_length: int) -> None:
    """Raises `ConfigError` if the strategy cannot act on the network."""
    strategy.check(model.has, original_length, model.word)
    if "regions" in model.has:
        for attention in (strategy.attention, strategy.measured_attention):
            check_attention(model, attention)
    # The blocks of an autoencoder meet in attention only, but they are counted in tokens, which the probe does not know.
    if strategy.sampling is not None and "autoencoder" not in model.has and not model.separates_documents:
        own = "whose tokens also meet outside its attention, without positions"
        if "regions" not in model.has:
            own = "whose attention does not use the interface of transformers, so whether it skips positions cannot be checked"
        rule = f"cannot act on a {model.network.config.model_type}, {own}"
        raise ConfigError("context/sampling", strategy.sampling.word, rule, "train at the target length: use context=yarn or none")
    _check_position(model, strategy, original_length)


def check_isolation(model: LanguageModel) -> None:
    """Raises `ConfigError` if documents in one row cannot be isolated from each other."""
    if "regions" not in model.has:
        kind = model.network.config.model_type
        rule = f"cannot isolate the documents of a {kind}, whose attention does not use the interface of transformers"
        raise ConfigError("data.isolate_documents", True, rule, "use {key}=false")
    if not model.separates_documents:
        rule = f"cannot isolate the documents of a {model.network.config.model_type}, whose tokens also meet outside its attention"
        raise ConfigError("data.isolate_documents", True, rule, "use {key}=false")


def check_attention(model: LanguageModel, attention: Attention) -> None:
    """Raises `ConfigError` if the attention cannot replace the network's own."""

    def refusal(rule: str, remedy: str) -> ConfigError:
        kind = model.network.config.model_type
        return ConfigError("context/attention", attention.word, f"cannot act on a {kind}, {rule}", remedy)

    windows = layer_windows(model)
    if not windows:
        raise refusal("whose attention does not go through the interface of transformers", _OTHER_ARCHITECTURE)
    if not (attention.is_full or attention.rotates) and not model.separates_documents:
        # An attention that rotates sees all tokens, only at other distances.
        raise refusal("whose tokens also meet outside its attention", "use context/attention=full")
    if not attention.acts_within_windows and windows != {None}:
        raise refusal("whose layers have windows of their own", "use context/attention=full or window")
    if attention.rotates and not kernel_rotates_alike(model):
        rule = "which does not rotate the two halves of a head alike in all layers"
        raise refusal(rule, "use context/attention=window")


def check_network(model: LanguageModel) -> None:
    """Raises `ConfigError` if our attention or our head does not compute what the network does in transformers."""
    with foreign(lambda reason: _source_refusal(model, f"which cannot be run here ({reason})")):
        _check_network(model)


def _check_network(model: LanguageModel) -> None:
    if rule := _beyond_us(model):
        raise _source_refusal(model, rule)
    if getattr(model.config, "index_topk", None):
        # DeepSeek-V3.2 and networks derived from it read the mask, which attention in regions does not have.
        raise _source_refusal(model, "whose attention chooses its keys with an indexer, which attention in regions does not compute")
    check_head(model)
    # Plain transformers lacks positions of our own.
    if model.position.is_plain and attention_error(model) > tolerance(next(model.network.parameters()), 1e-2):
        raise _source_refusal(model, "whose own attention computes other states than attention in regions")


def _beyond_us(model: LanguageModel) -> str | None:
    """Return what a network has, or lacks, that no strategy can act on; None if nothing was found."""
    config = layer_config(model.config)
    if getattr(config, "num_attention_heads", None) is None:
        return "whose layers have no attention"  # FNet mixes its tokens by a Fourier transform
    if table := unknown_table(model.network):
        return f"whose table of positions is a {type(table).__name__}, which cannot be extended"
    segments, landmarks = (getattr(config, key, None) for key in ("segment_means_seq_len", "num_landmarks"))
    if segments != landmarks:
        # Nyströmformer cuts a text into segments of a fixed size. If both are equal, it attends to every token.
        return f"which reads texts of exactly segment_means_seq_len={segments} tokens, because num_landmarks={landmarks}"
    return None


def check_head(model: LanguageModel) -> None:
    """Raises `ConfigError` if the network does more to its logits than our head: our losses would not be its own."""
    config = model.network.config
    try:
        is_known = model.adjustment is not None
    except (ValueError, AttributeError, TypeError) as fault:
        # Our attention refuses with a ValueError; a network that reads its mask fails, because it gets none.
        reason = fault if isinstance(fault, ValueError) else f"it cannot run without a mask of its attention ({first_line(fault)})"
        rule = f"is a {config.model_type}: {reason}"
        raise ConfigError("model.source", config.name_or_path, rule, _OTHER_ARCHITECTURE) from fault
    if not is_known:
        rule = "which changes its logits after the head"
        raise _source_refusal(model, rule, "name a checkpoint whose head is a matrix, with a constant factor or a cap")


def _check_position(model: LanguageModel, strategy: Strategy, original_length: int) -> None:
    position, rotary, kind = strategy.position, model.positions.rotary, model.network.config.model_type
    if "rotary" in position.removes and distance_matters(model):
        rule = f"cannot act on a {kind}, whose own positions cannot be switched off"
        raise ConfigError("context/position", position.word, rule, _OTHER_ARCHITECTURE)
    if not position.changes_model or not rotary:
        return
    rotary.start = strategy.from_
    if isinstance(position, Scaling) and (reason := rotary.refusal(position)):
        rule = f"cannot act on a {kind} {reason}"
        remedy = (
            "use context.from=original"
            if strategy.from_ == "current"
            else "use context=none or ntk, or start from a checkpoint before its extension"
        )
        raise ConfigError("context/position", position.word, rule, remedy)
    position.check(*rotary.starting_point(original_length, strategy.target_length))


def _source_refusal(model: LanguageModel, rule: str, remedy: str = _OTHER_ARCHITECTURE) -> ConfigError:
    config = model.network.config
    return ConfigError("model.source", config.name_or_path, f"is a {config.model_type}, {rule}", remedy)
