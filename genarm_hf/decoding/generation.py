"""`model.generate(..., reward_models=[arm], alpha=0.5)`: our arguments, taken out of `generate()`'s and put to work."""

import copy
import functools
from typing import Any

import transformers
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
# whose continuous batching has been tried
TESTED_CONTINUOUS_BATCHING = "5.19 to 5.24"
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
        """Continuous batching, guided where `reward_models` (or the generation config) says so.

        Args:
            *args: as in `transformers.GenerationMixin.generate_batch`.
            **kwargs: likewise, and `reward_models`, `alpha` (one row per request, or for all), `reward_tokenizers`.
        """
        return generate_batch_guided(super().generate_batch, self, args, kwargs)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """A manager of requests, guided where `reward_models` (or the generation config) says so.

        Args:
            *args: as in `transformers.GenerationMixin.init_continuous_batching`.
            **kwargs: likewise, and `reward_models`, `alpha` (of requests that bring none), `reward_tokenizers`.
        """
        return init_guided_batching(super().init_continuous_batching, self, args, kwargs)


def install() -> None:
    """Let every transformers model's `generate()` take reward models. Done on import; harmless when done again."""
    if _stock:
        return
    guided = {
        "generate": generate_guided,
        "generate_batch": generate_batch_guided,
        "init_continuous_batching": init_guided_batching,
    }
    for name, function in guided.items():
        _stock[name] = getattr(GenerationMixin, name)
        setattr(GenerationMixin, name, _method(_stock[name], function))


def _method(stock: Any, guided: Any) -> Any:
    @functools.wraps(stock)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return guided(functools.partial(stock, self), self, args, kwargs)

    return method


def uninstall() -> None:
    """Put transformers' own `generate()` back."""
    for name, function in _stock.items():
        if name == "generate":
            setattr(GenerationMixin, name, function)
        else:
            # these are inherited: our override goes away, and what was inherited shows again
            delattr(GenerationMixin, name)
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
    guided = guide(model, reward_models, **_guide_arguments(ours, from_config), tokenizer=kwargs.get("tokenizer"))
    return guided.generate(*args, output_rewards=bool(ours.get("output_rewards")), **kwargs)


def generate_batch_guided(stock: Any, model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Generate by continuous batching, guided where the arguments or the generation config ask for it.

    Args:
        stock: the model's own `generate_batch`, which takes over where nothing is asked.
        model: the base, or a guided model.
        args: positional arguments of the call.
        kwargs: its keyword arguments, ours among them.
    """
    guided = _for_batching(model, args, kwargs, 1)
    if guided is None:
        return stock(*_without_guidance(model, args, kwargs), **kwargs)
    from .continuous import generate_batch

    inputs, *rest = args or (kwargs.pop("inputs"),)
    return generate_batch(guided, inputs, *rest, **kwargs)


def init_guided_batching(stock: Any, model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A continuous batching manager, guided where the arguments or the generation config ask for it.

    Args:
        stock: the model's own `init_continuous_batching`, which takes over where nothing is asked.
        model: the base, or a guided model.
        args: positional arguments of the call.
        kwargs: its keyword arguments, ours among them.
    """
    guided = _for_batching(model, args, kwargs, 0)
    if guided is None:
        return stock(*args, **kwargs)
    from .continuous import init_batching

    return init_batching(guided, *args, **kwargs)


def _for_batching(model: Any, args: tuple, kwargs: dict[str, Any], place: int) -> Any:
    """The guided model that a call of continuous batching asks for, None where it asks for none.

    Args:
        model: the base, or a guided model.
        args: positional arguments of the call.
        kwargs: its keyword arguments, out of which ours are taken.
        place: position of the generation config among `args`.
    """
    ours = {name: kwargs.pop(name) for name in _ARGUMENTS if name in kwargs}
    already = "_guidance" in vars(model)
    from_config = None if already else _configured(model, args, kwargs, place)
    reward_models = _requested(ours, from_config) if not already and (ours or from_config) else []
    if not already and not reward_models:
        return None
    unfit = ("reward_inputs", "output_rewards", "share_backbone")
    refused = next((name for name in unfit if ours.get(name) is not None and ours[name] is not False), None)
    if refused:
        raise ValueError(
            f"Continuous batching takes no `{refused}`: reward models read the base's own packed tokens, in passes of "
            "their own. Call generate() with a padded batch."
        )
    _check_continuous_batching()
    from .continuous import with_alpha
    from .guided_model import guide

    if not already:
        return guide(model, reward_models, **_guide_arguments(ours, from_config))
    if ours.keys() - {"alpha"}:
        raise TypeError(f"The model is guided already: `{min(ours.keys() - {'alpha'})}` belongs to guide().")
    return model if ours.get("alpha") is None else with_alpha(model, ours["alpha"])


def _check_continuous_batching() -> None:
    """Refuse versions of transformers whose continuous batching is built in another way than is known here.

    Raises:
        RuntimeError: as said, naming the versions.
    """
    try:
        from .continuous import check_internals

        check_internals()
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"Continuous batching with reward models is built for transformers {TESTED_CONTINUOUS_BATCHING}, and "
            f"{transformers.__version__} works differently inside ({error}). Use generate() with a padded batch, or "
            "such a version."
        ) from error


def _without_guidance(model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple:
    """Positional arguments whose generation config names no reward models; in place in `kwargs` where it is there."""
    config = kwargs.get("generation_config", args[1] if len(args) > 1 else None) or model.generation_config
    if not getattr(config, "reward_models", None):
        return args
    plain = copy.copy(config)
    plain.reward_models = []
    if len(args) > 1:
        return args[0], plain, *args[2:]
    kwargs["generation_config"] = plain
    return args


def _guide_arguments(ours: dict[str, Any], from_config: dict[str, Any] | None) -> dict[str, Any]:
    """What `guide()` is told of the arguments of a call and of its generation config."""
    names = ("reward_inputs", "share_backbone", "reward_tokenizers")
    return {"alpha": ours.get("alpha", (from_config or {}).get("alpha"))} | {name: ours.get(name) for name in names}


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


def _configured(model: Any, args: tuple, kwargs: dict[str, Any], place: int = 1) -> dict[str, Any] | None:
    """Guidance that a generation config carries: `reward_models` (names) and `alpha`. None where it carries none."""
    passed = kwargs.get("generation_config", args[place] if len(args) > place else None)
    for config in (passed, getattr(model, "generation_config", None)):
        names = getattr(config, "reward_models", None)
        if names is not None:
            return {"reward_models": names, "alpha": getattr(config, "alpha", None)} if names else None
    return None
