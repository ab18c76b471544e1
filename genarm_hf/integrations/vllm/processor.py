"""The logits processor that adds the rewards, with the alpha of each request, under both of vLLM's model runners.

V1 tells a processor how rows of the batch came, went and moved; V2 gives every request a slot for life and says which
slot each row of logits belongs to.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor as V1LogitsProcessor
from vllm.v1.sample.logits_processor import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2LogitsProcessor

from ...guidance import combine
from .alphas import alpha_of, check_alpha
from .config import found
from .rewards import Rewards


class AlphaProcessor(V1LogitsProcessor, V2LogitsProcessor):
    """Base logits to guided logits. vLLM names a subclass with its number of reward models, `AlphaProcessor2`.

    The number is in the name because requests are checked by the class alone, in processes that have no model.

    Args:
        vllm_config: vLLM's configuration.
        place: V1: the device; V2: the states of all requests, which know it.
        is_pin_memory: V1 only.
    """

    arms = 0

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request when it arrives; a server answers 400 with the reason.

        Raises:
            ValueError: its alpha cannot be followed, or it asks for what guidance would not reach.
        """
        check_alpha(sampling_params.extra_args, cls.arms)
        if sampling_params.prompt_logprobs is not None:
            raise ValueError(
                "`prompt_logprobs` (and `echo` with `logprobs`) would be those of the base alone. Score prompts with "
                "`genarm_hf.guide(...)`."
            )
        # vLLM's beam search makes requests of its own, and leaves ours out of them
        if _is_a_beam(sampling_params) and "alpha" not in (sampling_params.extra_args or {}):
            raise ValueError(
                "vLLM's beam search does not pass alpha on; use transformers' generate() for it. To ask for one token "
                "without text yourself, name alpha."
            )

    def __init__(self, vllm_config: Any, place: Any, is_pin_memory: bool | None = None) -> None:
        self._default = tuple(found(vllm_config)["alphas"])
        self._rewards = Rewards.of(vllm_config)
        self._rewards.is_read = True
        self._alphas: dict[int, tuple[float, ...]] = {}  # by row (V1) or slot (V2); guided requests only
        on_v1 = is_pin_memory is not None
        self._device: torch.device = place if on_v1 else place.device
        self._slots: int = 0 if on_v1 else place.max_num_reqs
        self._table: Tensor | None = None  # the same on the device; None where requests have changed

    def is_argmax_invariant(self) -> bool:
        """V1: greedy requests need it too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """V1: follow the rows of the batch, in the order that vLLM prescribes. Nothing here may fail."""
        if batch_update is None:
            return
        self._table = None
        for row in batch_update.removed:
            self._alphas.pop(row, None)
        for row, sampling_params, *_ in batch_update.added:
            self.add_request(row, sampling_params)
        for source, target, direction in batch_update.moved:
            moved, replaced = self._alphas.pop(source, None), self._alphas.pop(target, None)
            self._set(target, moved)
            self._set(source, replaced if direction == MoveDirectionality.SWAP else None)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request gets a slot.

        Returns:
            whether it is guided.
        """
        alpha = alpha_of(sampling_params.extra_args, self._default)
        self._set(req_idx, alpha if any(alpha) else None)
        return any(alpha)

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Guide the rows of a step.

        Args:
            logits: float32 `(rows, vocab)`, the base's.
            ctx: V2: which slot each row belongs to. V1 has rows in the order of its updates.
        """
        rewards = self._rewards.take(logits)
        if not self._alphas:
            return logits
        if ctx is None:
            alphas = self._as_table(len(logits))[: len(logits)]
        else:
            alphas = self._as_table(self._slots)[ctx.expanded_idx_mapping.long()]
        return combine(logits, rewards, [alpha[:, None] for alpha in alphas.T])

    def _set(self, index: int, alpha: tuple[float, ...] | None) -> None:
        self._table = None
        self._alphas.pop(index, None)
        if alpha is not None:
            self._alphas[index] = alpha

    def _as_table(self, size: int) -> Tensor:
        """`(size, arms)`; 0 where a request is not guided."""
        if self._table is None or len(self._table) < size:
            rows = [self._alphas.get(index, (0.0,) * self.arms) for index in range(size)]
            self._table = torch.tensor(rows, dtype=torch.float32).to(self._device)
        return self._table


def _is_a_beam(sampling_params: Any) -> bool:
    return sampling_params.max_tokens == 1 and not sampling_params.detokenize and sampling_params.logprobs is not None


@cache
def _for_arms(count: int) -> type[AlphaProcessor]:
    return type(f"{AlphaProcessor.__name__}{count}", (AlphaProcessor,), {"arms": count})


def __getattr__(name: str) -> Any:
    count = name.removeprefix(AlphaProcessor.__name__)
    if count == name or not count.isdigit():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _for_arms(int(count))
