"""The configuration of an autoregressive reward model, as stored in a repository's `config.json`."""

import copy
import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class GenARMConfig(PreTrainedConfig):
    """Configuration of an [`AutoregressiveRewardModel`]: a causal LM whose log-probabilities are rewards.

    Attributes:
        text_config (`PreTrainedConfig` or `dict`):
            Configuration of the causal LM underneath, the backbone. Left out only in class-level introspection:
            there is no default backbone, since a full-size one would be built by accident.
        beta (`float`, *optional*):
            Inverse temperature of the Bradley-Terry loss the model was trained with (arXiv 2410.08193);
            positive.
        alpha (`float`, *optional*):
            Default guidance strength; 1.0 where it is None.
        objective (`str`, *optional*):
            What the reward measures, for people: `"helpful"`, `"harmless"`, ...
        prompt_template (`str`, *optional*):
            Format string with `{prompt}` that the training prompts were put into. None: prompts as they are.
        adapter (`dict`, *optional*):
            None for full weights. For a LoRA repository: `{"type": "LORA", "base_model_name_or_path": ...}`, a summary
            of the `adapter_config.json` beside it.

    Raises:
        ValueError: a value cannot be what it says, such as a `beta` of 0 or a template without `{prompt}`.

    Example:

    ```python
    >>> from transformers import LlamaConfig
    >>> config = GenARMConfig(text_config=LlamaConfig(vocab_size=64, hidden_size=32), beta=0.05, objective="helpful")
    >>> config.get_text_config().vocab_size
    64

    ```
    """

    model_type = "genarm"
    sub_configs = {"text_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    beta: float | int | None = None
    alpha: float | int | None = None
    objective: str | None = None
    prompt_template: str | None = None
    adapter: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values, and build the backbone's configuration where it came as a dictionary."""
        check_values(self.beta, self.alpha, self.prompt_template)
        if self.adapter is not None and not isinstance(self.adapter, dict):
            raise TypeError(f"`adapter` must be a dictionary of its type and base, got {type(self.adapter).__name__}.")
        if isinstance(self.text_config, dict):
            self.text_config = _build(self.text_config)
        elif self.text_config is not None:
            if not isinstance(self.text_config, PreTrainedConfig):
                kind = type(self.text_config).__name__
                raise TypeError(f"`text_config` must be the configuration of a causal LM, or its fields; got {kind}.")
            # a copy: choosing an attention implementation for this config must not change a living backbone's
            self.text_config = copy.deepcopy(self.text_config)
        super().__post_init__(**kwargs)


def check_values(beta: Any, alpha: Any, prompt_template: Any) -> None:
    """Refuse values of [`GenARMConfig`] that would fail or mislead later, when texts are scored.

    Raises:
        ValueError: `beta` is not positive, `alpha` not finite, or the template does not take exactly `{prompt}`.
    """
    if beta is not None and not (_is_number(beta) and beta > 0):
        raise ValueError(f"`beta` must be a positive number, got {beta!r}: the loss is -log sigmoid(beta * margin).")
    if alpha is not None and not _is_number(alpha):
        raise ValueError(f"`alpha` must be a finite number, got {alpha!r}. Leave it out for the default of 1.")
    if prompt_template is not None and not _takes_prompt(prompt_template):
        raise ValueError(
            f"`prompt_template` must be a format string with '{{prompt}}' and no other field, got {prompt_template!r}. "
            "Write literal braces twice."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _takes_prompt(template: Any) -> bool:
    mark = "\0prompt\0"
    try:
        return mark in template.format(prompt=mark)
    except (AttributeError, LookupError, ValueError):
        return False


def _build(fields: dict[str, Any]) -> PreTrainedConfig:
    if "model_type" not in fields:
        raise ValueError(
            f"`text_config` must name its `model_type` (for example 'llama'), got keys {sorted(fields)[:8]}. Pass the "
            "backbone's configuration object instead."
        )
    name_or_path = fields.get("_name_or_path", "")
    config = AutoConfig.for_model(**{key: value for key, value in fields.items() if key != "_name_or_path"})
    config._name_or_path = name_or_path
    return config
