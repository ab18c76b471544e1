"""Guidance for loops that are not ours: a `LogitsProcessor` that sees only the ids so far and the base's scores.

Such a loop never says which tokens are new, which were rolled back, or which row became which. All of it is read from
the ids: the longest prefix that each row shares with a row of the call before is what the reward models have read.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging

from ..guidance import Alpha, combine, mask_columns
from ..scoring import check_ids
from ..vocabulary import check_vocabularies
from .guidance_plan import Guidance, alpha_columns, check_alpha
from .reading import as_logprobs
from .reward_models import as_list, as_rewards, check_positions, default_alpha, one_each
from .reward_prompts import as_reward_prompts, check_reward_prompt
from .reward_reader import RewardReader

logger = logging.get_logger(__name__)

# how much more than 1 the probabilities of log-probs may add up to by rounding, in nats
_ROUNDING = 1e-3
# speculation asks about drafted positions twice; so many are remembered, for a single row
_REMEMBERED = 32


@dataclass
class _Follower:
    """A reader, and how far back its cache can go.

    Attributes:
        reader: the reader.
        floor: length of text below which the cache has lost what lies outside a sliding window; None: it loses nothing.
        recorded: whether the cache keeps what leaves the window until it is cropped.
    """

    reader: RewardReader
    floor: int | None = None
    recorded: bool = False

    def roll_back(self, removed: int, keep: int) -> bool:
        """Forget the last `removed` tokens, so that `keep` are left. False: it cannot, and must read anew."""
        if self.floor is not None:
            if not self.recorded or keep < self.floor:
                return False
            self.floor = keep
        self.reader.crop(removed)
        return True


@dataclass
class _Text:
    """The text that the reward models are reading.

    Attributes:
        ids: `(rows, length)` noted so far; after a draft was rejected this may be longer than the text itself.
        prompt_length: tokens of the prompt.
        followers: one per term, None for those that are switched off.
        opinions: log-probabilities `(1, 1, vocab)` per term, by length of the text they follow and by vocab.
    """

    ids: Tensor
    prompt_length: int
    followers: list[_Follower | None]
    opinions: dict[tuple[int, int], dict[int, Tensor]] = field(default_factory=dict)


class GenARMLogitsProcessor(LogitsProcessor):
    """Adds `sum_i alpha_i log pi_i` to the scores of a base model (arXiv 2410.08193).

    For custom loops and engines that take logits processors, with the tokens that `generate(reward_models=...)` gives.
    It follows growing texts, rolled-back drafts, and rows that move, multiply or vanish. Put it first among the
    processors. It serves one generation at a time; threads take a processor each. Reward models in training mode are
    put to `eval()`.

    Args:
        reward_models: one or several, as in [`guide`].
        alpha: guidance strength, as in [`guide`]. A callable gets the number of tokens since the prompt, which is
            `attention_mask`'s columns, or else what the first call (after a [`reset`]) shows.
        attention_mask: `(batch, prompt)` of the left-padded prompts, 1 = token. None: no padding.
        reward_inputs: prompts of the reward models' own, as in [`guide`].
        base: the base model, if it is at hand: its tokenizer is compared, and reward models given by name are loaded to
            its device.
        tokenizer: the base's tokenizer, to compare vocabularies with.
        reward_tokenizers: the reward models' tokenizers, one or a list.
        renormalize: whether guided scores are returned as normalised log-probabilities, which beam search adds up.
            None: for the rows whose scores are log-probabilities (`logsumexp` not above 0), as beam search passes them.

    Raises:
        TypeError: something is no causal LM, or alpha no number.
        ValueError: an alpha, mask or prompt that does not fit; when called, ids that do not fit these, or another
            vocabulary.

    Example:
    ```python
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> tiny = LlamaConfig(vocab_size=32, hidden_size=64, intermediate_size=32, num_hidden_layers=1)
    >>> base, arm = LlamaForCausalLM(tiny).eval(), LlamaForCausalLM(tiny).eval()
    >>> processor = GenARMLogitsProcessor(arm, alpha=0.5)
    >>> ids = torch.tensor([[5, 6, 7]])
    >>> guided = processor(ids, base(ids).logits[:, -1])
    >>> torch.allclose(guided, (base(ids).logits + 0.5 * arm(ids).logits.log_softmax(-1))[:, -1], atol=1e-5)
    True

    ```
    """

    # one token per request and no text: nothing to follow
    supports_continuous_batching = False

    def __init__(
        self,
        reward_models: Any,
        alpha: Alpha | None = None,
        attention_mask: Tensor | None = None,
        reward_inputs: Any = None,
        *,
        base: Any = None,
        tokenizer: Any = None,
        reward_tokenizers: Any = None,
        renormalize: bool | None = None,
    ) -> None:
        home = SimpleNamespace(device=torch.get_default_device()) if base is None else base
        if not hasattr(home, "device") or (base is not None and not hasattr(base, "config")):
            raise TypeError(f"`base` must be the model whose scores are guided, got {type(base).__name__}.")
        rewards = as_rewards(reward_models, home)
        arms = len(rewards)
        strengths = [default_alpha(item, home) for item in as_list(reward_models)] if alpha is None else alpha
        # without the base: scores may have passed other processors, and are not taken for what it says
        self.guidance = Guidance(rewards, check_alpha(strengths, arms), as_reward_prompts(reward_inputs, arms))
        self.attention_mask = _check_mask(attention_mask, self.guidance)
        for term in self.guidance.terms:
            if term.prompt is not None:
                check_reward_prompt(term.prompt, term.model, term.name)
        self.renormalize = renormalize
        self._tokenizers = base, tokenizer, one_each(reward_tokenizers, arms)
        self._sizes: set[int] = set()
        self._text: _Text | None = None
        self._record = False
        _evaluate(self.guidance)

    def reset(self) -> None:
        """Forget the text.

        A new prompt is recognised by itself, unless it continues the text before: then a callable alpha would count on,
        and `reward_inputs` would not start again.
        """
        self._text = None

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Guide the choice of the next token.

        Args:
            input_ids: `(rows, length)`, the whole text so far; rows are the batch, each perhaps repeated (beams,
                returned sequences).
            scores: `(rows, vocab)` of the base, logits or log-probabilities.

        Returns:
            float32 `(rows, vocab)`; `scores` itself where no reward model guides.
        """
        if not any(self.guidance.active):
            return scores
        self._check_call(input_ids, scores)
        # whatever goes wrong, nothing half-read stays behind
        text, self._text = self._text, None
        text = self._follow(text, input_ids, scores.shape[1])
        alphas = self._alphas(input_ids.shape[1] - text.prompt_length, len(input_ids), scores.device)
        logprobs = [
            self._logprobs(text, index, input_ids.shape[1], scores) if isinstance(alpha, Tensor) or alpha != 0 else None
            for index, alpha in enumerate(alphas)
        ]
        self._text = text
        if all(opinion is None for opinion in logprobs):
            return scores
        return self._normalized(combine(scores[:, None], logprobs, alphas)[:, 0], scores)

    # ------------------------------------------------------------------ before any model runs

    def _check_call(self, ids: Tensor, scores: Tensor) -> None:
        check_ids(ids)
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            raise TypeError("`scores` must be a tensor of logits or log-probabilities (rows, vocab).")
        if scores.ndim != 2 or len(scores) != len(ids):
            raise ValueError(
                f"`scores` must be (rows, vocab) for {len(ids)} rows of `input_ids`, got {tuple(scores.shape)}."
            )
        self._times(len(ids))
        if self.attention_mask is not None and ids.shape[1] < self.attention_mask.shape[1]:
            raise ValueError(
                f"`attention_mask` is of prompts of {self.attention_mask.shape[1]} tokens, and `input_ids` have "
                f"{ids.shape[1]}. A processor with a mask serves one batch of prompts: make a new one for others."
            )
        if scores.shape[1] not in self._sizes:
            self._check_vocabulary(scores.shape[1])

    def _check_vocabulary(self, size: int) -> None:
        base, tokenizer, reward_tokenizers = self._tokenizers
        known = SimpleNamespace(config=PreTrainedConfig.from_dict({"vocab_size": size})) if base is None else base
        for term in self.guidance.terms:
            check_vocabularies(known, term.model, term.name, tokenizer, reward_tokenizers[term.first])
        # readers are opened for the largest vocabulary that ids come from (an assistant's may be padded otherwise)
        if size > max(self._sizes, default=0):
            self._text = None
        self._sizes.add(size)

    @property
    def _batch(self) -> int | None:
        """Prompts in a batch, where rows differ by more than their ids."""
        return self.guidance.batch_size if self.attention_mask is None else len(self.attention_mask)

    def _times(self, rows: int, batch: int | None = None) -> int:
        """How often each prompt is repeated; 1 where it makes no difference."""
        batch = self._batch if batch is None else batch
        if batch is None:
            return 1
        if rows % batch:
            raise ValueError(
                f"`attention_mask`, `reward_inputs` or `alpha` is of a batch of {batch}, and `input_ids` have {rows} "
                "rows, no multiple of it. A processor with one of these serves one batch: make a new one for others."
            )
        return rows // batch

    # ------------------------------------------------------------------ following the text

    def _follow(self, text: _Text | None, ids: Tensor, vocab: int) -> _Text:
        """The text in step with `ids`: read on, or rolled back, with its rows where they are now."""
        if text is not None:
            parents, shared = self._compare(ids, text.ids)
            if shared >= text.prompt_length:
                answered = text.opinions.get((ids.shape[1], vocab), {})
                if parents is None and shared == ids.shape[1] and len(answered) == sum(self.guidance.active):
                    return text  # what was read behind it is kept, in case the draft is right
                return self._continue(text, ids, parents, min(shared, ids.shape[1] - 1))
        prompt_length = ids.shape[1] if self.attention_mask is None else self.attention_mask.shape[1]
        # a copy: loops may write into their ids
        text = _Text(ids.clone(), prompt_length, [None] * len(self.guidance.models))
        text.followers = [
            self._open(text, index) if active else None for index, active in enumerate(self.guidance.active)
        ]
        return text

    def _compare(self, ids: Tensor, old: Tensor) -> tuple[Tensor | None, int]:
        """Each row's parent in `old` (None: all stayed in place), and how long a prefix all share with theirs."""
        length = min(ids.shape[1], old.shape[1])
        ids, old = ids[:, :length], old[:, :length].to(ids.device)
        if torch.equal(ids, old):
            return None, length
        shared = torch.stack([(old == row).long().cumprod(1).sum(1) for row in ids])
        if self._batch is not None:
            # rows of different prompts may look alike and still have other masks and other prompts of the reward models
            new_prompt = torch.arange(len(ids), device=ids.device) // self._times(len(ids))
            old_prompt = torch.arange(len(old), device=ids.device) // self._times(len(old))
            shared = shared.masked_fill(new_prompt[:, None] != old_prompt, -1)
        best, parents = shared.max(1)
        stayed = len(ids) == len(old) and torch.equal(shared.diagonal(), best)
        return None if stayed else parents, int(best.min())

    def _continue(self, text: _Text, ids: Tensor, parents: Tensor | None, keep: int) -> _Text:
        """Go on from the first `keep` tokens of the parents' rows."""
        removed = text.ids.shape[1] - keep
        # the text before; the readers of reward models that cannot go back are opened anew on the new one
        text.ids = ids.clone()
        text.opinions = {} if parents is not None else {k: o for k, o in text.opinions.items() if k[0] <= keep}
        for index, follower in enumerate(text.followers):
            if follower is None:
                continue
            into_prompt = keep < text.prompt_length and self.guidance.prompts[index] is not None
            if removed and (into_prompt or not follower.roll_back(removed, keep)):
                self._record = True
                text.followers[index] = self._open(text, index)
                continue
            if parents is not None:
                follower.reader.reorder(parents)
            self._note(text, index, follower.reader, keep)
        return text

    def _open(self, text: _Text, index: int) -> _Follower:
        """A reward model at the start of the text, with all of it noted."""
        model, prompt = self.guidance.models[index], self.guidance.prompts[index]
        times = self._times(len(text.ids))
        reader = RewardReader.open(model, True, None if prompt is None else prompt.expanded(times), max(self._sizes))
        follower = _Follower(reader, None if _loses_nothing(reader.cache) else 0)
        if self._record and follower.floor is not None:
            follower.recorded = _record_past(reader)
        self._note(text, index, reader, 0)
        return follower

    def _note(self, text: _Text, index: int, reader: RewardReader, start: int) -> None:
        """Hand a reward model the text from `start` on; one with its own prompt reads the continuation alone."""
        prompt = self.guidance.prompts[index]
        start = start if prompt is None else max(start, text.prompt_length)
        ids, mask = text.ids[:, start:], self.attention_mask
        if mask is not None and start < mask.shape[1]:
            mask = mask_columns(mask.repeat_interleave(self._times(len(ids)), 0), start, text.ids.shape[1])
        else:
            mask = None
        if ids.shape[1]:
            reader.extend(ids, mask)

    # ------------------------------------------------------------------ rewards

    def _alphas(self, step: int, rows: int, device: torch.device) -> list[float | Tensor]:
        alpha = self.guidance.alpha
        values = alpha(step) if callable(alpha) else alpha
        if len(values) not in (1, self._batch or len(values)):
            raise ValueError(f"`alpha` gave {len(values)} rows at step {step}, for a batch of {self._batch}.")
        return alpha_columns(values[:, None], self._times(rows, len(values)) if len(values) > 1 else 1, device)

    def _logprobs(self, text: _Text, index: int, length: int, scores: Tensor) -> Tensor:
        """Log-probabilities `(rows, 1, vocab)` of the token behind the text's first `length` ones."""
        key = length, scores.shape[1]
        known = text.opinions.get(key, {})
        if index in known:
            return known[index]
        follower, term = text.followers[index], self.guidance.terms[index]
        assert follower is not None
        prompt_length = text.prompt_length if term.prompt is None else term.prompt.ids.shape[1]
        check_positions(term.model, term.name, prompt_length, length - text.prompt_length)
        logprobs = as_logprobs(follower.reader.logits(1), scores.device, scores.shape[1], 1)
        if len(text.ids) == 1:
            text.opinions[key] = known | {index: logprobs}
            text.opinions.pop((length - _REMEMBERED, scores.shape[1]), None)
        return logprobs

    def _normalized(self, guided: Tensor, scores: Tensor) -> Tensor:
        """Guided scores as log-probabilities, where the scores were (or as `renormalize` says)."""
        if self.renormalize is False:
            return guided
        log_z = guided.logsumexp(-1, keepdim=True)
        wanted = log_z.isfinite()  # a row without any possible token stays as it is
        if self.renormalize is None:
            # probabilities of 1 at most; less where processors before this one masked tokens
            wanted = wanted & (scores.float().logsumexp(-1, keepdim=True) <= _ROUNDING)
        return guided - torch.where(wanted, log_z, 0.0)


def _check_mask(attention_mask: Tensor | None, guidance: Guidance) -> Tensor | None:
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2 or not attention_mask.numel():
        raise TypeError(
            "`attention_mask` must be a tensor (batch, prompt), 1 = token and 0 = padding, as the tokenizer returns it."
        )
    if bool((attention_mask[:, -1] == 0).any()):
        raise ValueError(
            "`attention_mask` is padded on the right; the continuation must follow the text. Pad on the left."
        )
    if guidance.batch_size not in (None, len(attention_mask)):
        raise ValueError(
            f"`attention_mask` has {len(attention_mask)} rows, and `alpha` or `reward_inputs` {guidance.batch_size}."
        )
    return attention_mask


def _evaluate(guidance: Guidance) -> None:
    for term in guidance.terms:
        if any(module.training for module in term.model.modules()):
            logger.warning_once(
                f"{term.name} is in training mode, where dropout makes rewards random: it is put to eval()."
            )
            term.model.eval()


def _loses_nothing(cache: Any) -> bool:
    """Whether every layer keeps all tokens, so that any rollback is exact."""
    return cache is None or all(type(layer) is DynamicLayer for layer in cache.layers)


def _record_past(reader: RewardReader) -> bool:
    """Make an empty cache keep what leaves its window. False where it cannot (recurrent, or transformers < 5.15)."""
    if not hasattr(reader.cache, "activate_past_recording"):
        return False
    try:
        reader.record_past("reward model")
    except ValueError:
        return False
    return True
