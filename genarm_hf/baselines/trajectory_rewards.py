"""Rewards of whole texts: a classifier with one label, trained on preferences, as test-time baselines use it.

A causal model reads the text, and a linear head makes a number of what it knows at the last token (arXiv 2009.01325).
Nothing trains it to judge a text that has not ended, which is what GenARM's paper has against decoding by it.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedModel

from ..adapters import unwrap
from ..decoding.reward_reader import CACHE_NAMES
from ..guidance import position_ids_from_mask
from ..scoring import as_pairs, encode_pairs, evaluating, forward_parameters, right_pad


class TrajectoryReward:
    """Gives rewards of full texts, by a classifier with one label.

    What the reward of a text is follows transformers: of a sequence classifier, its logit at the last token that is not
    `config.pad_token_id`. Where that is the end-of-text token too, a text's end changes nothing. Of a token classifier,
    its logit at the last token; that is how prefix values are read.

    Args:
        model: a decoder with a classification head of one label, or a `PeftModel` of one. For an encoder, pass decoders
            a callable instead, `lambda ids, mask: encoder(ids, attention_mask=mask).logits[:, 0]`.
        tokenizer: needed by `score` alone.

    Raises:
        TypeError: the model is no decoder with a classification head.
        ValueError: it has several labels, or no id of padding.

    Example:
        >>> from transformers import LlamaConfig, LlamaForSequenceClassification
        >>> config = LlamaConfig(vocab_size=16, hidden_size=64, intermediate_size=8, num_hidden_layers=1)
        >>> config.num_labels, config.pad_token_id = 1, 0
        >>> reward = TrajectoryReward(LlamaForSequenceClassification(config))
        >>> reward(torch.tensor([[5, 6, 7], [5, 6, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])).shape
        torch.Size([2])
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        inner = unwrap(model)
        if not isinstance(inner, PreTrainedModel):
            raise TypeError(f"`model` must be a classifier of transformers, got {type(model).__name__}.")
        accepted = forward_parameters(type(inner))  # type: ignore[arg-type]
        if inner.get_output_embeddings() is not None or not any(name in accepted for name in CACHE_NAMES):
            raise TypeError(
                f"`model` must be a decoder with a classification head, got {type(inner).__name__}. `from_causal_lm` "
                "makes one of a causal LM; an encoder can be wrapped in a callable (ids, mask)."
            )
        if inner.config.num_labels != 1:
            raise ValueError(
                f"`model.config.num_labels` must be 1, one reward for each text, got {inner.config.num_labels}."
            )
        if _pad(inner) is None:
            raise ValueError(
                "`model.config.pad_token_id` must be set, or the last token of a padded text cannot be found."
            )
        self.model, self.tokenizer = model, tokenizer

    @property
    def pad_token_id(self) -> int:
        """What stands for nothing to the classifier."""
        pad = _pad(unwrap(self.model))
        assert pad is not None  # checked when made
        return pad

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Rewards of full texts, by one forward.

        Args:
            input_ids: `(rows, length)`, padded on either side.
            attention_mask: `(rows, length)`, 1 = token; None: all are.

        Returns:
            `(rows,)`, float32, on the device of the ids.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        ids, mask = left_aligned(input_ids.masked_fill(mask == 0, self.pad_token_id), mask)
        model: Any = unwrap(self.model)
        inputs: dict[str, Any] = {"attention_mask": mask.to(model.device), "use_cache": False}
        if "position_ids" in forward_parameters(type(model)):  # type: ignore[arg-type]
            inputs["position_ids"] = position_ids_from_mask(inputs["attention_mask"])
        with evaluating(model):
            logits = model(ids.to(model.device), **inputs).logits
        return at_last_token(logits).to(input_ids.device)

    def score(self, prompts: str | Sequence[str], responses: str | Sequence[str], batch_size: int = 16) -> Tensor:
        """Rewards of texts, tokenised as in training: the response ends with the end-of-text token.

        Args:
            prompts: one for each response, or one for all.
            responses: the responses.
            batch_size: texts in one forward.

        Returns:
            `(responses,)`, float32, on the CPU.

        Raises:
            ValueError: there is no tokenizer, or not one prompt for each response.
        """
        if self.tokenizer is None:
            raise ValueError("`score` needs a tokenizer: `TrajectoryReward(model, tokenizer)`.")
        rows = encode_pairs(self.tokenizer, *as_pairs(prompts, responses))
        rewards = torch.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
        for places in (order[start : start + batch_size] for start in range(0, len(order), batch_size)):
            ids, mask, _ = right_pad([rows[place] for place in places], unwrap(self.model).device)
            rewards[places] = self(ids, mask).cpu()
        return rewards


def from_causal_lm(model: Any, *, per_token: bool = False) -> Any:
    """A classifier with one label on a copy of a causal LM's weights, made in memory; its head is random.

    Args:
        model: a causal LM, not wrapped by PEFT.
        per_token: a token classifier, for prefix values; else a sequence classifier, for rewards of full texts.

    Returns:
        the classifier, with the causal LM's dtype and device, in evaluation mode. Padding is the causal LM's, else its
        end-of-text token.

    Raises:
        TypeError: it is no causal LM of transformers, or wrapped by PEFT.
        ValueError: its configuration has neither padding nor end of text.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=16, hidden_size=64, intermediate_size=8, num_hidden_layers=1)
        >>> from_causal_lm(LlamaForCausalLM(config)).score
        Linear(in_features=64, out_features=1, bias=False)
    """
    if unwrap(model) is not model:
        raise TypeError("`model` must not be wrapped by PEFT: pass `model.merge_and_unload()`.")
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        raise TypeError(f"`model` must be a causal LM of transformers, got {type(model).__name__}.")
    config = copy.deepcopy(model.config)
    config.num_labels, config.architectures = 1, None
    if config.pad_token_id is None:
        ends = config.eos_token_id
        if ends is None:
            raise ValueError("`model.config.pad_token_id` or `eos_token_id` must be set: texts will be padded.")
        config.pad_token_id = ends if isinstance(ends, int) else ends[0]
    auto = AutoModelForTokenClassification if per_token else AutoModelForSequenceClassification
    classifier = auto.from_config(config, dtype=model.dtype)
    classifier.base_model.load_state_dict(model.base_model.state_dict())
    return classifier.to(model.device).eval()


def left_aligned(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding to the front of each row, so that every text ends in the last column.

    Example:
        >>> left_aligned(torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]]))
        (tensor([[0, 5, 6]]), tensor([[0, 1, 1]]))
    """
    order = mask.argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def at_last_token(logits: Tensor) -> Tensor:
    """Logits `(rows, 1)`, or `(rows, length, 1)` of a token classifier, to rewards `(rows,)` in float32."""
    return (logits[:, -1] if logits.ndim == 3 else logits)[:, 0].float()


def _pad(model: Any) -> int | None:
    return model.config.get_text_config().pad_token_id
