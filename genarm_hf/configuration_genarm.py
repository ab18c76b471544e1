"""The configuration of an autoregressive reward model, as stored in a repository's `config.json`."""

import copy
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class GenARMConfig(PreTrainedConfig):
    """Configuration of an [`AutoregressiveRewardModel`]: a causal LM whose log-probabilities are rewards.

    Args:
        text_config (`PreTrainedConfig` or `dict`):
            Configuration of the causal LM underneath, the backbone. Left out only in class-level introspection: there is
            no default backbone, since a full-size one would be built by accident.
        beta (`float`, *optional*):
            Inverse temperature of the Bradley-Terry loss the model was trained with (arXiv 2410.08193, eq. 6).
        alpha (`float`, *optional*):
            Default guidance strength; 1.0 where it is None.
        objective (`str`, *optional*):
            What the reward measures, for people: `"helpful"`, `"harmless"`, ...
        prompt_template (`str`, *optional*):
            Format string with `{prompt}` that the training prompts were put into. None: prompts as they are.
        adapter (`dict`, *optional*):
            None for full weights. For a LoRA repository: `{"type": "LORA", "base_model_name_or_path": ...}`, a summary
            of the `adapter_config.json` beside it.

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
        """Build the backbone's configuration where it came as a dictionary (as it does from `config.json`)."""
        if isinstance(self.text_config, dict):
            fields = dict(self.text_config)
            name_or_path = fields.pop("_name_or_path", "")
            if "model_type" not in fields:
                raise ValueError(
                    "`text_config` must name its `model_type` (for example 'llama'), got keys "
                    f"{sorted(fields)[:8]}. Pass the backbone's configuration object instead."
                )
            self.text_config = AutoConfig.for_model(**fields)
            self.text_config._name_or_path = name_or_path
        elif self.text_config is not None:
            # a copy: choosing an attention implementation for this config must not change a living backbone's
            self.text_config = copy.deepcopy(self.text_config)
        super().__post_init__(**kwargs)
