"""vLLM's configuration of a composition: checked before anything heavy starts, and completed where vLLM cannot know.

vLLM calls the two methods of [`CompositionHook`] in the process that the user started. What they find out travels in
`hf_config`, as dictionaries, to the processes that run the models.
"""

import copy
from dataclasses import asdict, replace
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging

from .composition import Composition, architecture, check_parts, read
from .versions import check_frontend, check_version

logger = logging.get_logger(__name__)

PROCESSOR = f"{__package__}.processor:AlphaProcessor"
"""vLLM's name for the processor's class; the number of reward models follows."""

_FOUND = "genarm_found"
# the loaders that read weights from several places
_LOAD_FORMATS = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "dummy")


class CompositionHook:
    """What vLLM calls when it has read the `config.json` of a composition."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Check the models, lead vLLM to the base's weights, and install the processor.

        Raises:
            ImportError: this version of vLLM is not one of those tested.
            ValueError: the models cannot be served together, or not in the way that was asked for.
        """
        check_version()
        check_frontend()
        if model_config.runner_type != "generate" or model_config.convert_type != "none":
            raise ValueError("A composition generates text: leave out `--runner` and `--convert`.")
        if model_config.enable_prompt_embeds:
            raise ValueError("`--enable-prompt-embeds` gives the base what its reward models cannot read.")
        composition = read(model_config.hf_config)
        check_parts(composition.base, composition.arms)
        _fit_length(model_config, composition)
        setattr(model_config.hf_config, _FOUND, _as_dict(composition))
        model_config.model, model_config.revision = composition.base.model, composition.base.revision
        if is_shared(model_config):
            _run_uncompiled(model_config)
        own = f"{PROCESSOR}{len(composition.arms)}"
        model_config.logits_processors = [*(model_config.logits_processors or []), own]
        _report_guided_logprobs(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse ways of running in which guidance would be lost, or that nobody has tested.

        Raises:
            ImportError: this version of vLLM is not one of those tested.
            ValueError: as said.
        """
        check_version()
        reasons = _reasons_against(vllm_config)
        if reasons:
            raise ValueError(f"A guided model cannot be served like this: {'; '.join(reasons)}.")


def _reasons_against(vllm_config: Any) -> list[str]:
    load_format = vllm_config.load_config.load_format
    reasons = []
    if vllm_config.speculative_config is not None:
        reasons.append("speculative decoding runs without logits processors, and so without guidance")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        reasons.append("pipeline parallelism is not tested; use tensor parallelism")
    if vllm_config.lora_config is not None:
        reasons.append("LoRA requests would change the base alone")
    if load_format not in _LOAD_FORMATS:
        reasons.append(f"`--load-format {load_format}` reads one model; use one of {', '.join(_LOAD_FORMATS)}")
    if is_shared(vllm_config.model_config):
        if vllm_config.model_config.quantization is not None:
            reasons.append("LoRA reward models on quantised weights of the base are not supported")
        if load_format == "dummy":
            reasons.append("`--load-format dummy` leaves LoRA reward models out")
    return reasons


def is_shared(model_config: Any) -> bool:
    """Whether reward models are LoRA adapters on the base's weights."""
    return bool(getattr(model_config.hf_config, _FOUND)["adapters"])


def _run_uncompiled(model_config: Any) -> None:
    """The base runs on more rows than vLLM schedules tokens, which is what it compiles and captures graphs for."""
    if not model_config.enforce_eager:
        logger.warning("LoRA reward models on the base's weights run as with `--enforce-eager`: nothing is compiled.")
        model_config.enforce_eager = True


def _fit_length(model_config: Any, composition: Composition) -> None:
    """Positions must exist in every model: a reward model past its last one would give nonsense, or crash."""
    for part in composition.arms:
        longest = getattr(part.config, "max_position_embeddings", None)
        if longest is None or longest >= model_config.max_model_len:
            continue
        if model_config.original_max_model_len not in (None, -1):
            raise ValueError(
                f"The reward model {part.model!r} has {longest} positions, and `--max-model-len` is "
                f"{model_config.max_model_len}. Ask for {longest} at most."
            )
        logger.warning(f"max_model_len is {longest}: the reward model {part.model!r} has no more positions.")
        model_config.max_model_len = longest


def _report_guided_logprobs(model_config: Any) -> None:
    """Log-probabilities in replies are those that tokens are sampled from; vLLM's default is the base's."""
    if model_config.logprobs_mode == "raw_logprobs":
        model_config.logprobs_mode = "processed_logprobs"


# ---------------------------------------------------------------------- from process to process


def _as_dict(composition: Composition) -> dict[str, Any]:
    """Plain data: vLLM pickles it, and its hash decides whether compiled code may be used again."""
    separate = [part for part in composition.arms if part.adapter is None]
    return {
        "base_architecture": architecture(composition.base),
        "alphas": list(composition.alphas),
        "places": [part.place for part in composition.arms],
        "configs": [part.config.to_dict() | {"architectures": [architecture(part)]} for part in separate],
        "adapters": [asdict(part.adapter) for part in composition.arms if part.adapter is not None],
    }


def found(vllm_config: Any) -> dict[str, Any]:
    """What the hook found, by name.

    `base_architecture`; `alphas` and `places`, one for each reward model, and so are `configs`, or `adapters` where
    they are LoRA on the base's weights.
    """
    return getattr(vllm_config.model_config.hf_config, _FOUND)


def for_base(vllm_config: Any) -> Any:
    """The configuration that the base needs: vLLM's, with whatever the user overrode, but for the architecture."""
    return _for_part(
        vllm_config, vllm_config.model_config.hf_config, architectures=[found(vllm_config)["base_architecture"]]
    )


def for_arms(vllm_config: Any) -> list[Any]:
    """The configuration that each reward model needs.

    Layers ask `cache_config` for their window and `quant_config` for their weights, and both are the base's: a reward
    model with the base's window would forget, and say nothing of it.
    """
    from vllm.transformers_utils.config import patch_rope_parameters

    configs = []
    for fields in found(vllm_config)["configs"]:
        config = AutoConfig.for_model(**fields)
        patch_rope_parameters(config)  # as vLLM does to what it reads itself
        own = _for_part(vllm_config, config)
        own.model_config.quantization = None
        cache_config = copy.copy(own.cache_config)
        cache_config.sliding_window = _uniform_window(config)
        configs.append(replace(own, cache_config=cache_config, quant_config=None))
    return configs


def _for_part(vllm_config: Any, config: PreTrainedConfig, **changes: Any) -> Any:
    own = vllm_config.with_hf_config(config, **changes)
    # with_hf_config leaves the text config, which sizes and windows are read from, as it was
    own.model_config.hf_text_config = own.model_config.hf_config.get_text_config()
    own.model_config.model_arch_config = own.model_config.get_model_arch_config()
    return own


def _uniform_window(config: PreTrainedConfig) -> int | None:
    """The window of a model all of whose layers have it; where layers differ, each knows its own."""
    layers = getattr(config, "layer_types", None)
    if layers is not None and any(layer != "sliding_attention" for layer in layers):
        return None
    return getattr(config, "sliding_window", None)
