"""LoRA adapters as files: what they say of themselves, and which of them are nothing but low-rank terms.

Reward models that are adapters of the composition's base share its weights in vLLM. What a file holds beyond `B A x`
would be left out there without a word, so it is refused here.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from ...adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, saved_dtypes
from ...loading import Repository, unreadable

PACKED: dict[str, tuple[str, str | int]] = {
    "q_proj": ("qkv_proj", "q"),
    "k_proj": ("qkv_proj", "k"),
    "v_proj": ("qkv_proj", "v"),
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
}
"""Layers that are slices of a larger one in vLLM: its name, and vLLM's name of the slice."""

TARGETS = (*PACKED, "o_proj", "down_proj", "c_attn", "c_proj", "c_fc")
"""Layers that may have low-rank terms."""

MERGE = "`AutoregressiveRewardModel.from_pretrained(...).backbone.merge_and_unload().save_pretrained(...)`"

# anything else that is set may change what the adapter computes
_KNOWN_FIELDS = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
# the others replace the base's weights by what their terms leave over
_INITS = (True, False, "gaussian", "eva", "orthogonal", None)
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Adapter:
    """What belongs to an adapter's tensors.

    Attributes:
        base: name of the model that it was trained on.
        alpha: LoRA's, not the guidance strength.
        alpha_pattern: alphas of some layers, by patterns of their names, as PEFT matches them.
        use_rslora: whether terms are scaled by the root of their rank.
    """

    base: str
    alpha: float
    alpha_pattern: dict[str, float]
    use_rslora: bool

    def scaling(self, layer: str, rank: int) -> float:
        """What a layer's low-rank term is multiplied by.

        Example:
            >>> Adapter("base", 16, {"mlp.up_proj": 2}, use_rslora=False).scaling("model.layers.0.mlp.up_proj", 4)
            0.5
            >>> Adapter("base", 16, {"mlp.up_proj": 2}, use_rslora=True).scaling("model.layers.0.mlp.down_proj", 4)
            8.0
        """
        own = [value for key, value in self.alpha_pattern.items() if re.match(rf"(.*\.)?({key})$", layer)]
        return (own[0] if own else self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter(repo: Repository, base: str | None = None) -> Adapter | None:
    """The adapter of a repository; None where it has full weights.

    Args:
        repo: the repository.
        base: what its base is called here; None: what it says itself.

    Raises:
        ValueError: it is more than low-rank terms on layers of a base that it names.
    """
    fields = repo.json(ADAPTER_CONFIG)
    if fields is None:
        return None
    reason = _more_than_lora(fields) or _more_than_terms(_keys(repo))
    if reason:
        raise ValueError(f"The adapter {repo.name!r} cannot share its base's weights in vLLM: {reason}. {_remedy()}")
    base = base or fields.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ValueError(
            f"{ADAPTER_CONFIG} of {repo.name!r} names no base. Write it there, as `base_model_name_or_path`."
        )
    alpha, pattern = fields.get("lora_alpha", 8), fields.get("alpha_pattern") or {}
    if not isinstance(pattern, dict) or not all(
        isinstance(value, (int, float)) for value in (alpha, *pattern.values())
    ):
        raise ValueError(f"{ADAPTER_CONFIG} of {repo.name!r} must hold numbers as `lora_alpha` and in `alpha_pattern`.")
    return Adapter(base, alpha, pattern, bool(fields.get("use_rslora")))


def layer_of(key: str) -> tuple[str, str]:
    """Name of the layer that a tensor of an adapter's file belongs to, and whether it is its `"A"` or its `"B"`.

    Example:
        >>> layer_of("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
        ('model.layers.0.self_attn.q_proj', 'A')
    """
    match = _KEY.fullmatch(key)
    assert match is not None, f"{key} was checked before"
    return match[1], match[2]


def _remedy() -> str:
    return f"Merge it into its base ({MERGE}) and name the result."


def _more_than_lora(fields: dict[str, Any]) -> str | None:
    if fields.get("peft_type") != "LORA":
        return f"it is a {fields.get('peft_type')} adapter, not LoRA"
    if fields.get("init_lora_weights") not in _INITS:
        return f"`init_lora_weights={fields['init_lora_weights']!r}` trained it on changed weights of the base"
    unknown = [key for key, value in fields.items() if value and key not in _KNOWN_FIELDS]
    return f"`{unknown[0]}` is set" if unknown else None


def _keys(repo: Repository) -> Iterable[str]:
    path = repo.require(ADAPTER_WEIGHTS)
    try:
        return saved_dtypes([path])
    except SafetensorError as error:
        raise unreadable(repo, error) from error


def _more_than_terms(keys: Iterable[str]) -> str | None:
    matches = {key: _KEY.fullmatch(key) for key in keys}
    strange = [key for key, match in matches.items() if match is None or match[1].rpartition(".")[2] not in TARGETS]
    if strange:
        return f"it holds {strange[0]}, and only LoRA on {', '.join(TARGETS)} is supported"
    found = [{match[1] for match in matches.values() if match and match[2] == side} for side in "AB"]
    return None if found[0] == found[1] != set() else "it has not both matrices, A and B, of each of its layers"
