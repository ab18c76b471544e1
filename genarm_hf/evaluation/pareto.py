"""How good a set of trade-offs between several objectives is. Arrays in, numbers out; all objectives are maximised.

Computed by [moocore](https://multi-objective.github.io/moocore/python/), which pymoo uses for hypervolumes too and
which needs a third of its packages.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other one beats: none is as good in every objective and better in one.

    Args:
        points: `(points, objectives)`.

    Returns:
        `(points,)`; equal points are all kept.

    Raises:
        ImportError: moocore is not installed.
        ValueError: the shape is another one, or a number is not finite.

    Example:
        >>> non_dominated([[1.0, 3.0], [2.0, 2.0], [1.0, 2.0]]).tolist()
        [True, True, False]
    """
    return _moocore().is_nondominated(_points(points, "points"), maximise=True, keep_weakly=True)


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume of what the points beat, above a reference point (Zitzler and Thiele 1998).

    Args:
        points: `(points, objectives)`; those that do not beat the reference in every objective add nothing.
        reference: `(objectives,)`, the same for all systems that are compared: the worst that counts.

    Raises:
        ImportError: moocore is not installed.
        ValueError: shapes do not fit, or a number is not finite.

    Example:
        >>> hypervolume([[1.0, 3.0], [2.0, 2.0]], reference=[0.0, 0.0])  # 1 x 3 and 1 x 2
        5.0
    """
    array = _points(points, "points")
    corner = _points([reference], "reference")[0]
    if len(corner) != array.shape[1]:
        raise ValueError(f"`reference` must have {array.shape[1]} objectives like `points`, got {len(corner)}.")
    return float(_moocore().hypervolume(array, ref=corner, maximise=True))


def inverted_generational_distance(points: ArrayLike, front: ArrayLike, plus: bool = False) -> float:
    """Mean distance from each point of a reference front to the nearest of the points; 0 is best.

    Args:
        points: `(points, objectives)` of one system. Objectives of different scales are to be brought to one before.
        front: `(points, objectives)` of the best that is known: the front of all systems together, say.
        plus: IGD+, which counts only how far a point falls short (Ishibuchi et al. 2015). Unlike plain IGD, it never
            calls a dominated set the better one.

    Raises:
        ImportError: moocore is not installed.
        ValueError: shapes do not fit, or a number is not finite.

    Example:
        >>> inverted_generational_distance([[0.0, 0.0]], front=[[3.0, 4.0]])
        5.0
    """
    array, best = _points(points, "points"), _points(front, "front")
    if array.shape[1] != best.shape[1]:
        raise ValueError(f"`points` and `front` must have the same objectives, got {array.shape[1]}, {best.shape[1]}.")
    distance = _moocore().igd_plus if plus else _moocore().igd
    return float(distance(array, ref=best, maximise=True))


def _points(points: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite numbers, one row a point and one column an objective, got {points}.")
    return array


def _moocore() -> Any:
    try:
        import moocore
    except ImportError as error:
        raise ImportError("Measures of several objectives need moocore: pip install 'genarm-hf[reproduce]'.") from error
    return moocore
