"""The alpha of a request: what may be said, and what it means."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

_KEY = "alpha"


def check_alpha(extra_args: Mapping[str, Any] | None, arms: int) -> None:
    """Refuse a request whose alpha could not be followed.

    Args:
        extra_args: of its sampling parameters, over HTTP `vllm_xargs`.
        arms: how many reward models there are.

    Raises:
        ValueError: it is not a finite number or one for each reward model, or it is misspelt.
    """
    extra_args = extra_args or {}
    misspelt = [key for key in extra_args if key != _KEY and get_close_matches(key.lower(), [_KEY], cutoff=0.75)]
    if misspelt:
        raise ValueError(f"`{misspelt[0]}` is not an argument; the guidance strength is called `{_KEY}`.")
    if _KEY not in extra_args:
        return
    alpha = extra_args[_KEY]
    values = list(alpha) if isinstance(alpha, (list, tuple)) else [alpha] * arms
    if not all(map(_is_number, values)) or len(values) != arms:
        raise ValueError(
            f"`{_KEY}` must be a finite number, or a list of {arms}, one for each reward model; got {alpha!r}."
        )


def alpha_of(extra_args: Mapping[str, Any] | None, default: tuple[float, ...]) -> tuple[float, ...]:
    """The guidance strengths that a checked request asks for.

    Args:
        extra_args: of its sampling parameters.
        default: of requests that name none.

    Example:
        >>> alpha_of({"alpha": 0.5}, default=(1.0, 1.0))
        (0.5, 0.5)
        >>> alpha_of(None, default=(1.0, 0.2))
        (1.0, 0.2)
    """
    alpha = (extra_args or {}).get(_KEY)
    if alpha is None:
        return default
    return tuple(map(float, alpha)) if isinstance(alpha, (list, tuple)) else (float(alpha),) * len(default)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
