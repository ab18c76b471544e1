"""`GenARMSharedForCausalLM`: a base and LoRA reward models on its weights, which are held once, as one model of vLLM's.

The base runs on the rows of all streams, its own and one per reward model: see `streams`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .adapters import Adapter
from .config import found
from .joint_model import JointModel
from .streams import add_terms, separate_attention
from .weights import load


class GenARMSharedForCausalLM(JointModel):
    """A base with LoRA reward models of its own."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the base's weights, then put the adapters into it."""
        files = {name: _File() for name in self.arm_names}
        loaded = load(files, self.base, weights)
        lacking = [name for name, file in files.items() if not file]
        if lacking:
            raise RuntimeError(
                f"vLLM's loader has brought no weights of {', '.join(lacking)}, which would be the base."
            )
        terms = add_terms(self.base, list(zip(self._adapters, files.values(), strict=True)))
        return loaded | {f"base.{name}" for name in terms}

    def _add_arms(self, vllm_config: Any) -> list[int]:
        self._adapters = [Adapter(**fields) for fields in found(vllm_config)["adapters"]]
        separate_attention(self.base, len(self._adapters), vllm_config.cache_config)
        return [vllm_config.model_config.hf_text_config.hidden_size] * len(self._adapters)

    def _run(self, input_ids: Tensor | None, positions: Tensor) -> Sequence[Tensor]:
        assert input_ids is not None
        streams = len(self._adapters) + 1
        return self.base(input_ids.repeat(streams), positions.repeat(streams)).chunk(streams)

    def _read(self, hidden_states: Sequence[Tensor]) -> Sequence[Any]:
        logits = self.base.compute_logits(torch.cat(list(hidden_states)))
        return [None] * len(hidden_states) if logits is None else logits.chunk(len(hidden_states))


class _File(dict[str, Tensor]):
    """The tensors of an adapter, kept until all of them are there; a loader may use its memory again, hence copies."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        self.update((name, tensor.clone()) for name, tensor in weights)
        return set()
