"""Reward models in `pipeline()`: as arguments of `"text-generation"`, and as the task `"reward-guided-generation"`.

A text-generation pipeline hands arguments that it does not know on to `generate()`, at init and per call. What it does
not do, a small hook does: bring the reward models to the pipeline's device, and refuse what a pipeline cannot mean.
"""

import copy
from functools import wraps
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from transformers.pipelines import TextGenerationPipeline
from transformers.pipelines.base import SUPPORTED_PEFT_TASKS

from ..decoding.generation import generate_guided
from ..guidance import as_alpha

TASK = "reward-guided-generation"
_stock: dict[str, Any] = {}


class RewardGuidedGenerationPipeline(TextGenerationPipeline):
    """Text generation guided by reward models, which also says what each reward model thinks of the result.

    Takes what [`~transformers.TextGenerationPipeline`] takes, and at init or per call what `generate()` takes from us:

    - **reward_models** -- one or several reward models (a model, hub id or directory), see [`guide`].
    - **alpha** -- guidance strength: a number, one per reward model, or a callable `step -> alpha`.

    Records have, beside `generated_text`, **rewards** (`list[float]`): for each reward model the log-probability of the
    response in nats, summed over its tokens (the end of sequence is one of them where it was generated).

    ```python
    generator = pipeline("reward-guided-generation", model="org/base", reward_models=["org/arm"], alpha=0.5)
    generator("How do I ask for a raise?")  # [{"generated_text": "...", "rewards": [-23.5]}]
    ```
    """

    def _forward(self, model_inputs: Any, **generate_kwargs: Any) -> dict[str, Any]:
        generate_kwargs.pop("output_rewards", None)  # as always here
        _prepare(self, model_inputs, generate_kwargs)
        # a stand-in, so that threads may share the pipeline
        pipeline = copy.copy(self)
        pipeline.model = scored = _Scored(self.model)
        outputs = super(RewardGuidedGenerationPipeline, pipeline)._forward(model_inputs, **generate_kwargs)
        batch, returned = outputs["generated_sequence"].shape[:2]
        assert scored.rewards is not None
        outputs["rewards"] = scored.rewards.sum(-1).T.reshape(batch, returned, -1)
        return outputs

    def postprocess(self, model_outputs: dict[str, Any], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Records of one prompt, each with its `rewards`."""
        rest = {key: value for key, value in model_outputs.items() if key != "rewards"}
        records = super().postprocess(rest, *args, **kwargs)
        rewards = model_outputs["rewards"][0].tolist()
        return [record | {"rewards": row} for record, row in zip(records, rewards, strict=True)]


class _Scored:
    """The model as the pipeline sees it: generates ids, keeps their rewards `(arms, sequences, new_tokens)` aside."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.rewards: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, **kwargs: Any) -> Tensor:
        kwargs |= {"return_dict_in_generate": True, "output_rewards": True}
        outputs = generate_guided(self._model.generate, self._model, (), kwargs)
        self.rewards = outputs.rewards
        return outputs.sequences


def register_pipelines(pipelines: ModuleType) -> None:
    """Register the task, and put the hook into the text-generation pipeline. Harmless when done again.

    Args:
        pipelines: the module `transformers.pipelines`.
    """
    if TASK not in pipelines.PIPELINE_REGISTRY.supported_tasks:
        from transformers import AutoModelForCausalLM

        pipelines.PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=RewardGuidedGenerationPipeline, pt_model=AutoModelForCausalLM, type="text"
        )
        # with this mark, save_pretrained() would copy our code into the model's repository
        del RewardGuidedGenerationPipeline._registered_impl
        SUPPORTED_PEFT_TASKS[TASK] = SUPPORTED_PEFT_TASKS["text-generation"]
    if not _stock:
        _stock["_forward"] = TextGenerationPipeline._forward
        TextGenerationPipeline._forward = _hooked(TextGenerationPipeline._forward)


def unregister_pipelines(pipelines: ModuleType) -> None:
    """Undo [`register_pipelines`]."""
    pipelines.PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)
    SUPPORTED_PEFT_TASKS.pop(TASK, None)
    if _stock:
        TextGenerationPipeline._forward = _stock.pop("_forward")


def _hooked(stock: Any) -> Any:
    @wraps(stock)
    def _forward(self: Any, model_inputs: Any, **generate_kwargs: Any) -> Any:
        if generate_kwargs.get("output_rewards"):
            raise ValueError(
                f"`output_rewards` has no place in this pipeline's records. Use `pipeline({TASK!r}, ...)`."
            )
        _prepare(self, model_inputs, generate_kwargs)
        return stock(self, model_inputs, **generate_kwargs)

    return _forward


def _prepare(pipeline: Any, model_inputs: Any, generate_kwargs: dict[str, Any]) -> None:
    """Reward models to the pipeline's device, and a last look at alpha, before any model runs."""
    names = [name for name in ("reward_models", "reward_model") if generate_kwargs.get(name)]
    if not names:
        # an empty list in a call switches off what init set
        if "reward_models" in generate_kwargs:
            for name in ("reward_models", "alpha", "reward_inputs"):
                generate_kwargs.pop(name, None)
        return
    listed = generate_kwargs[names[0]]
    listed = listed if isinstance(listed, (list, tuple)) else [listed]
    _check_rows(generate_kwargs.get("alpha"), len(listed), len(model_inputs["input_ids"]))
    for model in listed:
        _move(model, pipeline.device)


def _check_rows(alpha: Any, arms: int, batch: int) -> None:
    if alpha is None or callable(alpha):
        return
    rows = len(as_alpha(alpha, arms))
    if rows not in (1, batch):
        raise ValueError(
            f"`alpha` has {rows} rows, and the pipeline runs {batch} prompt(s) at a time, which it does not match with "
            "rows. Pass one alpha per reward model, or all prompts in one batch (`batch_size=len(prompts)`)."
        )


def _move(model: Any, device: Any) -> None:
    """To the device in place, as pipelines move their model; what is spread over devices or quantised stays."""
    placed = getattr(model, "hf_device_map", None) is not None or getattr(model, "is_quantized", False)
    if isinstance(model, nn.Module) and not placed and getattr(model, "device", device) != device:
        model.to(device)
