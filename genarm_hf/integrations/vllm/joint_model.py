"""`GenARMForCausalLM`: base and reward models as one model of vLLM's.

Their attention layers register themselves, so one block table pages the keys and values of all of them: whatever is
scheduled, preempted, cached or chunked happens to all at once. Everything of vLLM's is imported on construction, so
that a version that lacks it is refused by name.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...vocabulary import align
from .config import for_arms, for_base, found
from .rewards import Rewards
from .weights import load, sources


class JointModel(nn.Module):
    """A base with reward models; subclasses know how these are run.

    Args:
        vllm_config: vLLM's configuration, which the hook has completed.
        prefix: of this model's layers.

    Attributes:
        base: the base, with the names it has when it is served alone.
        arm_names: prefixes of the reward models' weights, as they come from vLLM's loader.
        secondary_weights: vLLM's loader reads these after the base's weights.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        from vllm.model_executor.model_loader.utils import initialize_model

        config = for_base(vllm_config)
        self.base = initialize_model(config, prefix=prefix)
        self._vocab_size = config.model_config.hf_text_config.vocab_size
        places = found(vllm_config)["places"]
        self.arm_names = [f"arm{index}" for index in range(len(places))]
        self._sizes = [config.model_config.hf_text_config.hidden_size, *self._add_arms(vllm_config)]
        self.secondary_weights = sources(places)
        self._rewards = Rewards.of(vllm_config)
        if not vllm_config.use_v2_model_runner:  # V2 makes processors when it has the model
            self._rewards.require_reader()

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """The base's embeddings. vLLM asks every model for this method."""
        return self.base.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Run all models on the same tokens.

        Args:
            input_ids: `(tokens,)` of all requests in the batch.
            positions: `(tokens,)`.
            intermediate_tensors: of pipeline parallelism, which is refused.
            inputs_embeds: the base's, which reward models cannot read.

        Returns:
            `(tokens, sum of hidden sizes)`: hidden states side by side, since vLLM picks rows out of one tensor.
        """
        self._rewards.require_reader()
        if inputs_embeds is not None or intermediate_tensors is not None:
            raise NotImplementedError("Guided models take token ids, and run on one pipeline stage.")
        return torch.cat(list(self._run(input_ids, positions)), dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """The base's logits; the rewards of the same rows are left for the processor.

        Args:
            hidden_states: `(rows, sum of hidden sizes)`.

        Returns:
            `(rows, vocab)`, or None on a rank that does not sample.
        """
        logits, *rewards = self._read(hidden_states.split(self._sizes, dim=-1))
        if logits is not None:
            logprobs = [torch.log_softmax(reward, dim=-1, dtype=torch.float32) for reward in rewards]
            self._rewards.put([align(reward, self._vocab_size) for reward in logprobs])
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the weights of all models.

        Returns:
            names of the parameters that were loaded.
        """
        raise NotImplementedError

    def _add_arms(self, vllm_config: Any) -> list[int]:
        """Build the reward models.

        Returns:
            their hidden sizes.
        """
        raise NotImplementedError

    def _run(self, input_ids: Tensor | None, positions: Tensor) -> Sequence[Tensor]:
        """Hidden states of each model, the base's first."""
        raise NotImplementedError

    def _read(self, hidden_states: Sequence[Tensor]) -> Sequence[Any]:
        """Logits of each model, the base's first; None for all on a rank that does not sample."""
        raise NotImplementedError


class GenARMForCausalLM(JointModel):
    """A base with separate reward models, `arm0` and so on."""

    @property
    def arms(self) -> list[Any]:
        """The reward models."""
        return [getattr(self, name) for name in self.arm_names]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load them as they come; see [`load`]."""
        return load(dict(zip(self.arm_names, self.arms, strict=True)), self.base, weights)

    def _add_arms(self, vllm_config: Any) -> list[int]:
        from vllm.compilation.backends import set_model_tag
        from vllm.model_executor.model_loader.utils import initialize_model

        configs = for_arms(vllm_config)
        for name, config in zip(self.arm_names, configs, strict=True):
            # the tag keeps compiled code of one part from being taken for another's
            with set_model_tag(name):
                setattr(self, name, initialize_model(config, prefix=name))
        return [config.model_config.hf_text_config.hidden_size for config in configs]

    def _run(self, input_ids: Tensor | None, positions: Tensor) -> Sequence[Tensor]:
        return [model(input_ids, positions) for model in (self.base, *self.arms)]

    def _read(self, hidden_states: Sequence[Tensor]) -> Sequence[Any]:
        models = zip((self.base, *self.arms), hidden_states, strict=True)
        return [model.compute_logits(part.contiguous()) for model, part in models]
