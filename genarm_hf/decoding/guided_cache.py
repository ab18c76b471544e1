"""The cache of a guided model: the base's own cache, which takes the reward models' caches along wherever it goes.

It is of the base cache's class, so that everything in transformers that looks at a cache's type or attributes finds
what it expects; only the operations that move tokens or rows are widened.
"""

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from .reward_reader import RewardReader
from .shared_backbone import SharedBackbone, shared_rows_class


class GuidedCache:
    """Mixed into the class of the base's cache by [`guided_cache`].

    Attributes:
        readers: the reward models' readers, None for those that are switched off or read with the base.
        guided_length: tokens of the base's text that have passed through guidance.
        owners: the reward models that it was made for, None for those that are switched off.
        shared: the joint pass whose rows the cache holds; None where it holds the base's alone.
        whole: the cache as the joint pass sees it, with the columns in front of the base's text.
    """

    readers: list[RewardReader | None]
    guided_length: int
    owners: list[Any]
    shared: SharedBackbone | None
    whole: Any

    @property
    def _shift(self) -> int:
        return 0 if self.shared is None else self.shared.shift

    def get_seq_length(self, *args: Any, **kwargs: Any) -> Any:
        """Tokens of the base's text; a tensor where the cache is static."""
        length = super().get_seq_length(*args, **kwargs)  # type: ignore[misc]
        if isinstance(length, Tensor):
            return (length - self._shift).clamp(min=0) if self._shift else length
        return max(length - self._shift, 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the states, for a prefix that several texts go on from; the models themselves are not copied."""
        memo |= {id(kept): kept for kept in (*self.owners, self.shared)}
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def _active(self) -> list[RewardReader]:
        return [reader for reader in self.readers if reader is not None]

    def crop(self, tokens: int) -> None:
        """Remove `-tokens` tokens, or (transformers < 5.15) shorten to a positive `tokens`."""
        removed = -tokens if tokens <= 0 else max(self.guided_length - tokens, 0)
        super().crop(tokens + self._shift if tokens > 0 else tokens)  # type: ignore[misc]
        for reader in self._active():
            reader.crop(removed)
        self.guided_length -= removed

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        for reader in self._active():
            reader.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times in a row."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        for reader in self._active():
            reader.repeat(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        for reader in self._active():
            reader.select(indices)

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()  # type: ignore[misc]
        for reader in self._active():
            reader.reset()
        self.guided_length = 0

    def activate_past_recording(self) -> None:
        """Make all caches ready for a rollback."""
        super().activate_past_recording()  # type: ignore[misc]
        self.record_past()

    def record_past(self) -> None:
        """Make the reward models' caches ready for a rollback, or say which cannot be."""
        for index, reader in enumerate(self.readers):
            if reader is not None:
                reader.record_past(f"reward_models[{index}]")


@lru_cache(maxsize=32)
def _guided_class(cache_class: type) -> type:
    return type(cache_class.__name__, (GuidedCache, cache_class), {"__module__": cache_class.__module__})


def guided_cache(
    cache: Any,
    readers: Sequence[RewardReader | None],
    guided_length: int,
    owners: Sequence[Any],
    shared: SharedBackbone | None,
) -> Any:
    """A stand-in for the base's cache over the same layers: what one is fed, the other has.

    Args:
        cache: the base's cache, of any class; or a guided one, to go on with.
        readers: one per reward model.
        guided_length: tokens of the base's text that the readers have seen.
        owners: the reward models' causal LMs, None for those that are switched off.
        shared: the joint pass that fills it, if one does.
    """
    cache_class = type(cache)
    if not isinstance(cache, GuidedCache):
        cache_class = _guided_class(shared_rows_class(cache_class) if shared else cache_class)  # type: ignore[arg-type]
    guided: Any = object.__new__(cache_class)
    guided.__dict__.update(cache.__dict__)
    guided.__dict__.update(readers=list(readers), guided_length=guided_length, owners=list(owners), shared=shared)
    guided.row_streams = 1 if shared is None else shared.streams
    guided.whole = cache.whole if isinstance(cache, GuidedCache) else cache
    return guided
