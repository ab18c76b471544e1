"""Training autoregressive reward models on preference pairs (arXiv 2410.08193, section 4).

`losses` is the mathematics, `preferences` finds pairs and `data` makes ids of them, `arguments` holds the options and
`trainer` the `Trainer` subclass that puts them together. Names load when first used, so that importing this package
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import ARMTrainingArguments
    from .preferences import fingerprint, folds_by_prompt, load_preferences, split_by_prompt
    from .trainer import ARMTrainer

__all__ = [
    "ARMTrainer",
    "ARMTrainingArguments",
    "fingerprint",
    "folds_by_prompt",
    "load_preferences",
    "split_by_prompt",
]

_LAZY = {
    "ARMTrainer": "trainer",
    "ARMTrainingArguments": "arguments",
    **dict.fromkeys(("fingerprint", "folds_by_prompt", "load_preferences", "split_by_prompt"), "preferences"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
