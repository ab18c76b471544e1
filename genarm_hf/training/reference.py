"""The backbone as it was before training, whose log-probabilities `subtract_reference` takes off those of the model.

Under an adapter it is still there: the same model with the adapter off. Where all weights are trained it is a copy of
them. Shapes: `pairs`.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn

from ..adapters import active_adapter, adapter_disabled, trained_base_parameters
from ..scoring import evaluating
from .pair_forward import PairForward


class Reference:
    """Reads batches of pairs with the backbone as it was before training, without gradients and without dropout.

    Args:
        backbone: the causal LM or PEFT model to be trained, not wrapped and before its first step.
        read: how it reads pairs.
        device: where a copy of all weights goes. Weights that are spread over devices stay as they are.
    """

    def __init__(self, backbone: Any, read: PairForward, device: torch.device) -> None:
        self._read, self._copy = read, None
        if active_adapter(backbone) is None:
            self._copy = copy.deepcopy(backbone).requires_grad_(False).eval()
            if not hasattr(backbone, "hf_device_map"):
                self._copy.to(device)
            self._read = PairForward(self._copy, read.method)

    @torch.no_grad()
    def __call__(self, model: nn.Module, backbone: Any, part: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities `(pairs, 2)` of chosen and rejected responses, in nats.

        Args:
            model: the wrapped backbone, which is read where an adapter is trained: sharded weights are present in it.
            backbone: what it wraps.
            part: one of the `parts` of a batch.
        """
        if self._copy is not None:
            return self._read(self._copy, part)
        with adapter_disabled(backbone), evaluating(model):
            return self._read(model, part)


def check_reference(backbone: Any, args: Any) -> None:
    """Refuse trainings that leave nothing of what was there before them.

    Args:
        backbone: the causal LM or PEFT model to be trained.
        args: the [`ARMTrainingArguments`].

    Raises:
        ValueError: all weights are trained in shards, or weights of the base beside its adapter.
    """
    if active_adapter(backbone) is None:
        if how := _sharding(args):
            raise ValueError(
                f"`subtract_reference` keeps a copy of all weights where all are trained, which cannot be sharded; got "
                f"True with {how}. Train an adapter: pass `peft_config` (`--lora-r`)."
            )
    elif trained := trained_base_parameters(backbone):
        raise ValueError(
            "`subtract_reference` reads the base with the adapter off, so that the base must not change; got True, and "
            f"{len(trained)} of its own parameters are trained, such as {trained[0]!r}. Freeze them (an adapter's "
            "configuration with bias='none' does)."
        )


def _sharding(args: Any) -> str | None:
    """What shards the weights: an option, or a launcher, which speaks through the environment."""
    if args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return "FSDP"
    return "DeepSpeed" if args.deepspeed is not None or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") else None
