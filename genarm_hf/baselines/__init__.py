"""What guidance is compared with: other ways to align a model, each by its paper, as functions on any causal LM."""

from importlib import import_module
from typing import Any

_LAZY = {
    "mod": "mod",
    "rewarded_soup": "rewarded_soups",
    "train_dpo": "training_time",
    "train_sft": "training_time",
    "train_simpo": "training_time",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
