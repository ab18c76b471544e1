"""Weights of several models from several places, each to its own part of the joint model."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from torch import Tensor

from ...adapters import ADAPTER_WEIGHTS


def sources(places: Iterable[dict[str, Any]]) -> list[Any]:
    """Where vLLM's loader finds the reward models; it reads the base's weights by itself.

    Args:
        places: `model` and `revision` of each, and `base` of those that are adapters.
    """
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    return [
        DefaultModelLoader.Source(
            place["model"],
            place["revision"],
            prefix=f"arm{index}.",
            fall_back_to_pt=False,
            allow_patterns_overrides=[ADAPTER_WEIGHTS] if "base" in place else None,
        )
        for index, place in enumerate(places)
    ]


def load(arms: dict[str, Any], base: Any, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
    """Hand weights to the parts they belong to, as they come: files are read while this runs.

    Args:
        arms: reward models by the prefix of their weights, `arm0`.
        base: gets every name without such a prefix.
        weights: names and tensors; those of one part come in a row.

    Returns:
        names of the parameters that were loaded.
    """

    def owner(item: tuple[str, Tensor]) -> str:
        prefix = item[0].split(".", 1)[0]
        return prefix if prefix in arms else ""

    loaded: set[str] = set()
    for name, items in groupby(weights, key=owner):
        if name:
            names = arms[name].load_weights((key.removeprefix(f"{name}."), tensor) for key, tensor in items)
        else:
            names = base.load_weights(items)
        loaded |= {f"{name or 'base'}.{key}" for key in names}
    return loaded
