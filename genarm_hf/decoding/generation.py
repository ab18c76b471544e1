"""`model.generate(..., reward_models=[arm], alpha=0.5)`: our arguments, taken out of `generate()`'s and put to work."""

import functools
from typing import Any

from transformers import GenerationMixin

_ARGUMENTS = (
    "reward_models",
    "reward_model",
    "alpha",
    "reward_inputs",
    "output_rewards",
    "reward_tokenizers",
    "share_backbone",
)
_stock: dict[str, Any] = {}


class GenARMGenerationMixin(GenerationMixin):
    """`generate()` that takes reward models, for classes that want it by inheritance instead of by [`install`]."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate, guided where `reward_models` (or the generation config) says so.

        Args:
            *args: as in `transformers.GenerationMixin.generate`.
            **kwargs: likewise, and:
                reward_models (or `reward_model`): one or several reward models, see [`guide`].
                alpha: guidance strength; a number, one per reward model, `(batch, arms)`, or a callable `step ->
                    alpha`.
                reward_inputs: prompts of the reward models' own.
                output_rewards: with `return_dict_in_generate=True`, add `rewards` `(arms, sequences, new_tokens)` in
                    nats.
                share_backbone: whether LoRA reward models on the base's weights run in one pass with it (default:
                    where possible).
                reward_tokenizers: the reward models' tokenizers, to compare vocabularies with `tokenizer`.
        """
        return generate_guided(super().generate, self, args, kwargs)

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Continuous batching, which refuses reward models instead of dropping them."""
        _refuse_continuous_batching(self, args, kwargs)
        return super().generate_batch(*args, **kwargs)


def install() -> None:
    """Let every transformers model's `generate()` take reward models. Done on import; harmless when done again."""
    if _stock:
        return
    stock_generate, stock_batch = GenerationMixin.generate, GenerationMixin.generate_batch
    _stock.update(generate=stock_generate, generate_batch=stock_batch)

    @functools.wraps(stock_generate)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        return generate_guided(functools.partial(stock_generate, self), self, args, kwargs)

    @functools.wraps(stock_batch)
    def generate_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_continuous_batching(self, args, kwargs)
        return stock_batch(self, *args, **kwargs)

    GenerationMixin.generate = generate  # type: ignore[method-assign]
    GenerationMixin.generate_batch = generate_batch  # type: ignore[method-assign]


def uninstall() -> None:
    """Put transformers' own `generate()` back."""
    for name, function in _stock.items():
        # generate_batch is inherited: our override goes away, and what was inherited shows again
        if name in ("generate_batch",):
            delattr(GenerationMixin, name)
        else:
            setattr(GenerationMixin, name, function)
    _stock.clear()


def generate_guided(stock: Any, model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Generate, guided where the arguments or the generation config ask for it.

    Args:
        stock: the model's own `generate`, which takes over where nothing is asked.
        model: the base.
        args: positional arguments of the call.
        kwargs: its keyword arguments, ours among them.
    """
    from_config = _configured(model, args, kwargs)
    if from_config is None and not any(name in kwargs for name in _ARGUMENTS):
        return stock(*args, **kwargs)  # nobody asks for guidance: nothing of ours is even imported
    from .guided_model import GuidedModel, guide

    if isinstance(model, GuidedModel):
        return stock(*args, **kwargs)
    ours = {name: kwargs.pop(name) for name in _ARGUMENTS if name in kwargs}
    reward_models = _requested(ours, from_config)
    if not reward_models:
        return stock(*args, **kwargs)
    configs = (kwargs.get("generation_config", args[1] if len(args) > 1 else None), model.generation_config)
    implementations = (kwargs.get("cache_implementation"), *(getattr(c, "cache_implementation", None) for c in configs))
    if "paged" in implementations:
        raise ValueError(_NO_CONTINUOUS_BATCHING.format(what="`cache_implementation='paged'`"))
    alpha = ours.get("alpha", (from_config or {}).get("alpha"))
    guided = guide(
        model,
        reward_models,
        alpha,
        ours.get("reward_inputs"),
        share_backbone=ours.get("share_backbone"),
        tokenizer=kwargs.get("tokenizer"),
        reward_tokenizers=ours.get("reward_tokenizers"),
    )
    return guided.generate(*args, output_rewards=bool(ours.get("output_rewards")), **kwargs)


def _requested(ours: dict[str, Any], from_config: dict[str, Any] | None) -> list[Any]:
    """The reward models of this call; empty where it asks for none."""
    if ours.get("reward_models") is not None and ours.get("reward_model") is not None:
        raise ValueError("Pass `reward_models` or `reward_model`, not both.")
    asked = next((ours[name] for name in ("reward_models", "reward_model") if ours.get(name) is not None), None)
    if asked is None and from_config is not None:
        asked = from_config["reward_models"]
    listed = list(asked) if isinstance(asked, (list, tuple)) else [] if asked is None else [asked]
    if not listed:
        useless = [name for name in ("alpha", "reward_inputs", "output_rewards") if ours.get(name) is not None]
        if useless:
            raise ValueError(
                f"`{useless[0]}` needs reward models, and `reward_models` is empty. Pass `reward_models=[arm]`."
            )
    return listed


def _configured(model: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Guidance that a generation config carries: `reward_models` (names) and `alpha`. None where it carries none."""
    passed = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
    for config in (passed, getattr(model, "generation_config", None)):
        if config is not None and getattr(config, "reward_models", None):
            return {"reward_models": config.reward_models, "alpha": getattr(config, "alpha", None)}
    return None


_NO_CONTINUOUS_BATCHING = (
    "{what} runs continuous batching, which cannot follow reward models yet and would silently ignore them. Use "
    "generate() with a padded "
    "batch, or `reward_models=[]` to generate unguided."
)


def _refuse_continuous_batching(model: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    explicit = any(kwargs.get(name) for name in ("reward_models", "reward_model")) or kwargs.get("alpha") is not None
    switched_off = "reward_models" in kwargs and not kwargs["reward_models"]
    if explicit or (_configured(model, args, kwargs) is not None and not switched_off):
        raise ValueError(_NO_CONTINUOUS_BATCHING.format(what="generate_batch()"))
    for name in _ARGUMENTS:
        kwargs.pop(name, None)
