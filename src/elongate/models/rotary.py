"""The rotary embeddings of a network: set for a scaling, and verified.

If frequencies depend on the length of the text (dynamic NTK, LongRoPE), transformers derives them
from the largest position of each call, and dynamic NTK even remembers it: a chunk, a batch or an
earlier text would change the result. Here `read` sets them for the whole text instead.

If layers differ by type (ModernBERT, Gemma 3, OLMo 3), a scaling acts on those that see the whole
sequence: in the others, no distance exceeds their window, however long the text is. With
`context.position.layers=all` it acts on the others too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.heterogeneity import AmbiguousGlobalPerLayerAttributeError
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from elongate.context.position.relative import Relative, as_lists, as_proportional
from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.models.derived_rope import write_derived
from elongate.models.parts import WHOLE, head_dim, language_config, language_part, layer_config
from elongate.models.rotary_verification import Embeddings, verify_frequencies

_SCALED = ("linear", "dynamic", "yarn", "longrope", "llama3")  # rope_types from which a scaling can start
_CARRIED = ("partial_rotary_factor", "mrope_section", "mrope_interleaved")  # parameters that a scaling leaves as they are
_LENGTH_DEPENDENT = ("dynamic", "longrope")  # rope_types whose frequencies depend on the length of the text


class RotaryPositions:
    """All rotary embeddings of a network; false if it has none."""

    def __init__(self, network: PreTrainedModel) -> None:
        self.network = network
        self.config = language_config(network)
        write_derived(self.config)
        # As trained: a scaling always starts from these, also when it is set again for another length.
        self._trained: dict[str, Any] = dict(getattr(self.config, "rope_parameters", None) or {})
        self._trained_length = getattr(self.config, "max_position_embeddings", 0)
        self.start = "original"  # what a scaling of a scaled checkpoint starts from: its original or current frequencies
        self._length_dependent = self._freeze_frequencies()

    def __bool__(self) -> bool:
        return bool(self.modules())

    @property
    def trained(self) -> dict[str, Any]:
        """Return the trained `rope_parameters` of the layers that a scaling acts on."""
        return self._of(WHOLE)

    def _of(self, layer: str) -> dict[str, Any]:
        """Return the trained `rope_parameters` of a type of layers."""
        return self._trained[layer] if self._by_layer_type else self._trained

    @property
    def frequencies(self) -> Float[torch.Tensor, " half"]:
        """Return the present frequencies, in radians per token."""
        return getattr(self.modules()[0][2], self._buffer(WHOLE))

    def read(self, length: int) -> None:
        """Set length-dependent frequencies for texts of `length` tokens, independent of earlier texts."""
        for module, rope_type, layers in self._length_dependent:
            built = getattr(module, "_".join([*layers.values(), "inv_freq"]))
            # transformers passes a tensor too, so the rounding is the same.
            seq_len = torch.tensor(length, device=built.device)
            compute: Callable[..., Any] = ROPE_INIT_FUNCTIONS[rope_type]
            built.copy_(compute(layer_config(module.config), built.device, seq_len=seq_len, **layers)[0])

    @property
    def is_scaled(self) -> bool:
        """Return whether the checkpoint was extended before: its frequencies are not those that it was first trained with."""
        return self.trained.get("rope_type", "default") != "default" and not self._is_proportional

    @property
    def _is_proportional(self) -> bool:
        """Return whether the checkpoint was trained so that its slowest pairs do not rotate (Gemma 4), and is not scaled."""
        return self.trained.get("rope_type") == "proportional" and self.trained.get("factor", 1.0) == 1

    def refusal(self, scaling: Scaling) -> str | None:
        """Return why the scaling cannot start from the trained parameters, as the end of a sentence; None: it can."""
        if "rope_type" not in self.trained:
            return "whose layers have different rotary parameters"
        if reason := self._form_refusal(scaling):
            return reason
        if others := self._other_layers(scaling):
            if self.config.is_heterogeneous:
                return "with context.position.layers=all, because its layers have heads of different sizes"
            if any(self._trained[layer].get("rope_type", "default") != "default" for layer in others):
                return "with context.position.layers=all, because its windowed layers are scaled already"
            if not self._accepts(self._trained | self._scaled_others(scaling, max(2, self._trained_length), 2.0)):
                return "with context.position.layers=all, because its configuration does not take such frequencies in windowed layers"
        if not self.is_scaled:
            return None
        kind = self.trained["rope_type"]
        if kind not in _SCALED:
            return f"whose frequencies (rope_type {kind}) have no known original"
        if self.trained.get("mscale_all_dim"):
            return "whose softmax scale depends on its YaRN parameters (mscale_all_dim)"
        if self.start == "current" and (kind == "dynamic" or scaling.follows_text):
            return "with context.from=current, because frequencies that depend on the length of the text have no fixed ratio"
        return None

    def _form_refusal(self, scaling: Scaling) -> str | None:
        """Return why the configuration or the rotary embedding cannot express the scaling; None: it can."""
        if self._expressed(self._started(scaling), self.rotary(max(2, self._trained_length)), 2.0) is not None:
            return None
        if scaling.follows_text:
            return "whose configuration only takes frequencies that do not depend on the length of the text"
        return "whose rotary embedding does not take such frequencies"

    def _other_layers(self, scaling: Scaling) -> list[str]:
        """Return the types of layers, with rotary parameters of their own, that a scaling acts on beside those that see everything."""
        if scaling.layers == "full" or not self._by_layer_type:
            return []
        return [layer for layer in self._trained if layer != WHOLE and self._trained[layer] and layer in self.config.layer_types]

    def _scaled_others(self, scaling: Scaling, original_length: int, factor: float) -> dict[str, dict[str, Any]]:
        """Return the `rope_parameters` of these layers, scaled."""
        found = {}
        for layer in self._other_layers(scaling):
            rotary = self.rotary(original_length, layer)
            parameters = scaling.rope_parameters(rotary, factor)
            found[layer] = self._carried(layer) | (parameters if self._reads(parameters) else as_lists(scaling, rotary, factor))
        return found

    def _carried(self, layer: str) -> dict[str, Any]:
        """Return the trained parameters that a scaling leaves as they are."""
        trained = self._of(layer)
        return {key: trained[key] for key in _CARRIED if key in trained}

    def _started(self, scaling: Scaling) -> Scaling:
        """Return the scaling from the frequencies that it starts from: those of plain RoPE, or present ones."""
        if self._is_proportional or (self.is_scaled and self.start == "current"):
            return Relative(scaling=scaling, present=self._present[0], present_attention_factor=self._present[1])
        return scaling

    def _expressed(self, scaling: Scaling, rotary: Rotary, factor: float) -> dict[str, Any] | None:
        """Return the first `rope_parameters` for the scaling with which the architecture can be built and saved; None: there are none."""
        forms: list[Callable[[Rotary, float], dict[str, Any] | None]] = [scaling.rope_parameters, partial(as_lists, scaling)]
        if self._is_proportional:
            share = float(self.trained.get("partial_rotary_factor", 1.0))
            forms = [partial(as_proportional, scaling, share=share), *forms[1:]]
        if scaling.follows_text:
            forms = forms[:1]
        made = (self._complete(found) for form in forms if (found := form(rotary, factor)) is not None and self._reads(found))
        return next((whole for whole in made if self._accepts(whole)), None)

    def rotary(self, original_length: int, layer: str = WHOLE) -> Rotary:
        """Return the plain embedding of the checkpoint's theta, as the closed forms need it."""
        trained = self._of(layer)
        share = 1.0 if self._is_proportional and layer == WHOLE else trained.get("partial_rotary_factor", 1.0)
        dim = int(head_dim(self.config) * share)
        return Rotary(dim, float(trained["rope_theta"]), original_length)

    def starting_point(self, original_length: int, length: int) -> tuple[Rotary, float]:
        """Return the embedding that a scaling starts from, and the factor to sequences of `length` tokens.

        A scaled checkpoint starts from the length that it was pretrained on, before it was scaled, unless the
        scaling starts from its current frequencies.
        """
        if self.is_scaled and self.start == "original":
            original_length = self.pretrained_length
        return self.rotary(original_length), length / original_length

    @property
    def pretrained_length(self) -> int:
        """Return the length in tokens that the checkpoint was trained on before it was scaled."""
        if length := self.trained.get("original_max_position_embeddings"):
            return int(length)
        # transformers applies the factor of `linear` to all positions: the stated length is the scaled one.
        factor = self.trained["factor"] if self.trained.get("rope_type") == "linear" else 1.0
        return round(self._trained_length / factor)

    def set(self, scaling: Scaling, original_length: int, length: int) -> dict[str, Any]:
        """Rebuild the embeddings for sequences of `length` tokens; return the evidence that the scaling is active."""
        config = self.config
        if not scaling.changes_model and (self.is_scaled or self._is_proportional or self.refusal(scaling)):
            # Dynamic NTK reads the trained length from this key: a larger value would switch it off.
            if self.trained.get("rope_type") != "dynamic":
                config.max_position_embeddings = length
            return {"rope_parameters": self._trained}
        rotary, factor = self.starting_point(original_length, length)
        chosen, scaling = scaling, self._started(scaling)
        config.max_position_embeddings = scaling.stated_length(rotary.original_length, length)
        parameters = self._expressed(scaling, rotary, factor)
        assert parameters is not None, "checked by `refusal`"
        config.rope_parameters = parameters | self._scaled_others(chosen, rotary.original_length, factor)
        if hasattr(config, "original_max_position_embeddings"):  # transformers prefers it to the one in rope_parameters
            config.original_max_position_embeddings = rotary.original_length
        # A module reads the configuration only when it is created, so changing the configuration is not enough.
        for parent, name, module in self.modules():
            setattr(parent, name, type(module)(config).to(self.network.device))
        self._length_dependent = self._freeze_frequencies()
        for layer in self._other_layers(chosen):
            self._verify(chosen, self.rotary(rotary.original_length, layer), factor, layer)
        evidence = self._verify(scaling, rotary, factor, WHOLE)
        return evidence | ({"from": self.start, "pretrained_length": self.pretrained_length} if self.is_scaled else {})

    def _complete(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the `rope_parameters` of the configuration for those of a scaling."""
        carried = {} if self._is_proportional else self._carried(WHOLE)
        whole = carried | parameters
        return self._trained | {WHOLE: whole} if self._by_layer_type else whole

    def _reads(self, parameters: dict[str, Any]) -> bool:
        """Return whether transformers reads all of them: it looks for `truncate` only where all layers have the same parameters."""
        return not (self._by_layer_type and "truncate" in parameters)

    def _accepts(self, rope_parameters: dict[str, Any]) -> bool:
        """Return whether the architecture can be built and saved with these parameters. Phi-3's only takes lists of factors."""
        config = copy.deepcopy(self.config)
        config.rope_parameters = rope_parameters
        try:
            config.validate()
            for _, _, module in self.modules():
                type(module)(config)
        except (StrictDataclassClassValidationError, AmbiguousGlobalPerLayerAttributeError, ValueError, KeyError):
            return False
        return True

    @cached_property
    def _present(self) -> tuple[tuple[float, ...], float]:
        """Return the trained frequencies in radians per token, in a text as long as the trained length, and the attention factor."""
        config = copy.deepcopy(self.config)
        config.rope_parameters = self._trained
        layers = {"layer_type": WHOLE} if self._by_layer_type else {}
        compute: Callable[..., Any] = ROPE_INIT_FUNCTIONS[self.trained["rope_type"]]
        frequencies, attention_factor = compute(layer_config(config), None, seq_len=torch.tensor(self._trained_length), **layers)
        return tuple(frequencies.double().tolist()), float(attention_factor)

    def modules(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """Return (parent, name, module) of every rotary embedding."""
        return [
            (parent, name, module)
            for parent in language_part(self.network).modules()
            for name, module in parent.named_children()
            if any(buffer.endswith("inv_freq") for buffer, _ in module.named_buffers(recurse=False))
        ]

    def _freeze_frequencies(self) -> list[tuple[nn.Module, str, dict[str, str]]]:
        """Stop modules from changing their frequencies; return (module, rope_type, layer type, if any) of those."""
        found: list[tuple[nn.Module, str, dict[str, str]]] = []
        for _, _, module in self.modules():
            types = getattr(module, "rope_type", "default")
            if isinstance(types, dict):
                dependent = {layer: kind for layer, kind in types.items() if kind in _LENGTH_DEPENDENT}
                found += [(module, kind, {"layer_type": layer}) for layer, kind in dependent.items()]
                module.rope_type = dict.fromkeys(types, "default")
            elif types in _LENGTH_DEPENDENT:
                found.append((module, types, {}))
                module.rope_type = "default"
        return found

    def _verify(self, scaling: Scaling, rotary: Rotary, factor: float, layer: str) -> dict[str, Any]:
        """Return the evidence that a scaling is active in a type of layers."""
        modules = [module for _, _, module in self.modules()]
        embeddings = Embeddings(modules, self.config, self.network.device, layer if self._by_layer_type else None)
        return verify_frequencies(embeddings, self.read, scaling, rotary, factor)

    @property
    def _by_layer_type(self) -> bool:
        """Return whether types of layers have rotary parameters of their own."""
        return WHOLE in self._trained

    def _buffer(self, layer: str) -> str:
        """Return the name of the buffer with the frequencies of a type of layers."""
        return f"{layer}_inv_freq" if self._by_layer_type else "inv_freq"
