"""`ImplicitRewardModel`: a tuned model beside the one it was tuned from, read as a reward model.

Whatever a model was tuned by, tuning changed its log-probabilities, and the change is a reward for every token.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import active_adapter, has_adapters, unwrap, without_adapters
from .guidance import signed_sum
from .modeling_genarm import AutoregressiveRewardModel
from .scoring import as_pairs, check_batch_size, evaluating, summed_rewards
from .vocabulary import check_vocabularies


class ImplicitRewardModel(nn.Module):
    """A reward model that is a difference: `r(x, y) = log pi_tuned(y | x) - log pi_reference(y | x)`.

    It is the implicit reward of DPO (arXiv 2305.18290, eq. 5, in units of its beta and up to a term of the prompt
    alone), and the offset of proxy tuning (arXiv 2401.08565, eq. 1; repository alisawuffles/proxy-tuning) and of
    emulated fine-tuning (arXiv 2310.12962). Guiding a base by it at alpha 1 is proxy tuning:
    `log pi = log pi_base + alpha (log pi_tuned - log pi_reference) - log Z`.

    The released code of proxy tuning adds logits, not log-probabilities. After the softmax that is the same, since the
    two differ by a constant in each distribution; penalties and beams see other numbers.

    It goes wherever a reward model goes (`reward_models=`, [`guide`], [`GenARMLogitsProcessor`], pipelines), and counts
    as one there: one alpha, one row of `output_rewards`. A reference that is the very base being guided costs no
    forward of its own. Nothing is copied: the two models stay what and where they are.

    Args:
        tuned: an [`AutoregressiveRewardModel`], any causal LM, a `PeftModel` of one, a hub id or directory.
        reference: what it was tuned from, likewise. None: `tuned` without its adapter, on the same weights.

    Raises:
        TypeError: one of them is no causal LM.
        ValueError: the two are one model, have two vocabularies, or nothing tells what `tuned` was tuned from.

    Example:

    ```python
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> tiny = LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> implicit = ImplicitRewardModel(LlamaForCausalLM(tiny), LlamaForCausalLM(tiny))
    >>> implicit.token_rewards(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3])

    ```
    """

    def __init__(self, tuned: Any, reference: Any = None) -> None:
        super().__init__()
        self.tuned = _reward_model(tuned, "tuned")
        lm = self.tuned.causal_lm
        # a PEFT model puts its adapter into the very object it was made from
        same = reference is not None and unwrap(getattr(reference, "backbone", reference)) is lm
        if reference is None or same:
            reference = _untuned(self.tuned, reference is None)
        self.reference = _reward_model(reference, "reference")
        check_vocabularies(self.reference.causal_lm, lm, "`tuned`", than="`reference`")

    @property
    def device(self) -> torch.device:
        """Where the tuned model is."""
        return self.tuned.device

    def token_rewards(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, response_mask: Tensor | None = None
    ) -> Tensor:
        """Reward of every token: how much likelier tuning has made it.

        Args:
            input_ids: `(batch, length)`, as in [`AutoregressiveRewardModel.token_rewards`], and so the others.
            attention_mask: `(batch, length)`, 1 = token. None: no padding.
            response_mask: `(batch, length)`, 1 for the tokens to be rewarded. None: all tokens but padding.

        Returns:
            float32 `(batch, length)` in nats; 0 where there is no reward.
        """
        texts = input_ids, attention_mask, response_mask
        rewards = self.tuned.token_rewards(*texts)
        return signed_sum([rewards, self.reference.token_rewards(*texts).to(rewards.device)], [1.0, -1.0])

    @torch.no_grad()
    def score(
        self,
        tokenizer: Any,
        prompts: str | Sequence[str],
        responses: str | Sequence[str],
        batch_size: int = 16,
        append_eos: bool = True,
    ) -> Tensor:
        """One reward a response: the sum of its token rewards, both models reading the same ids.

        Args:
            tokenizer: of both models.
            prompts: as in [`AutoregressiveRewardModel.score`], and so the others. The tuned model's prompt template is
                applied where it has one.
            responses: response texts.
            batch_size: rows per forward.
            append_eos: whether the end of the response counts as a token.

        Returns:
            float32 `(responses,)` in nats, on the CPU.
        """
        check_batch_size(batch_size)
        encoded = self.tuned._encode(tokenizer, *as_pairs(prompts, responses), append_eos)
        self.reference._check_encoded(encoded)
        with evaluating(self):
            return summed_rewards(self.token_rewards, encoded, self.tuned._input_device, batch_size)


def _reward_model(model: Any, name: str) -> AutoregressiveRewardModel:
    if isinstance(model, (str, Path)):
        return AutoregressiveRewardModel.from_pretrained(model)
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if isinstance(model, AutoregressiveRewardModel):
        return model
    try:
        return AutoregressiveRewardModel.from_backbone(model)
    except TypeError as error:
        raise TypeError(f"`{name}`: {error}") from error


def _untuned(tuned: AutoregressiveRewardModel, wanted: bool) -> Any:
    """The tuned model without its adapter.

    Args:
        tuned: the tuned model.
        wanted: whether that was asked for; otherwise the reference is the same object.
    """
    lm = tuned.causal_lm
    if not has_adapters(lm):
        raise ValueError(
            "`reference` is None, and `tuned` has no adapter to leave out. Pass the model that it was tuned from."
            if wanted
            else "`reference` and `tuned` are one model, whose reward would be 0 for every token. Pass the model that "
            "was tuned, loaded a second time."
        )
    adapter = active_adapter(tuned.backbone)
    bias = None if adapter is None else getattr(adapter[1], "bias", None)
    if bias not in (None, "none"):
        raise ValueError(
            f"`tuned` has an adapter with bias={bias!r}, which has changed biases of the model itself. Pass the model "
            "that it was tuned from as `reference`, loaded a second time."
        )
    return without_adapters(lm)
