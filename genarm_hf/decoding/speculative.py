"""Drafts for assisted decoding made by the models that guide anyway, whose logits verification then reuses.

Stock assisted decoding runs a reward model twice per token where it drafts: once as the assistant, once to verify. Here
the call's own reader drafts. It runs ahead of the base and keeps its logits; the guided forward that verifies takes
them from there. A round of k drafted tokens costs k + 1 single-token forwards of a drafting reward model and one of the
base. What is accepted is for transformers to decide, so the tokens are exactly the guided policy's whatever the draft.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from transformers.generation.candidate_generator import AssistedCandidateGenerator

from ..adapters import unwrap
from ..guidance import combine, mask_columns
from ..vocabulary import vocab_size
from .call import GuidedCall
from .guidance_plan import Guidance
from .guided_cache import GuidedCache
from .reading import Reading, as_logprobs
from .reward_models import is_implicit
from .reward_reader import RewardReader

# Lengths of sampled drafts, where the assistant's generation config leaves them open. That a sampled token
# is rare says little of whether it is accepted: ending drafts there, as transformers does, gave a third fewer tokens a
# base forward on the playground (docs/benchmarks.md). Greedy drafts are as transformers makes them.
SAMPLED_DRAFTS = {"num_assistant_tokens": 10, "assistant_confidence_threshold": 0.0}

# generation parameters that choose drafts of another kind
OTHER_DRAFTS = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "speculation_type")


@dataclass
class Speculation:
    """What drafting did in one call, as `output.speculation`.

    Attributes:
        rounds: drafts that were verified, empty ones among them.
        drafted: drafted tokens.
        accepted: those of them that stand in the text.
        base_forwards: forwards of the guided base.
        reward_forwards: forwards of each reward model; 0 for one that runs in the base's own pass. Where transformers
            runs a reward model as the assistant, its drafting is not in it.
        assistant_forwards: forwards of a small base that drafts with the reward models; None where there is none, or
            transformers runs it.
        readers: the call's readers, until it is finished.
        small: the small base's.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    base_forwards: int = 0
    reward_forwards: tuple[int, ...] = ()
    assistant_forwards: int | None = None
    readers: list[RewardReader | None] = field(default_factory=list, repr=False, compare=False)
    small: RewardReader | None = field(default=None, repr=False, compare=False)

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens that were accepted; 0 without drafts."""
        return self.accepted / self.drafted if self.drafted else 0.0

    def finish(self, guidance: Guidance) -> "Speculation":
        """Count what the readers ran, and let go of them and their caches.

        Args:
            guidance: of the call.
        """
        self.reward_forwards = guidance.given_counts([0 if one is None else one.forwards for one in self.readers])
        self.assistant_forwards = None if self.small is None else self.small.forwards
        self.readers, self.small = [], None
        return self


@dataclass
class DraftingReader(RewardReader):
    """A reader that runs ahead of the base, and keeps its logits until the base follows.

    Attributes:
        ahead: ids `(batch, tokens)` noted before the base has read them; None while there are none.
        known: logits of the last tokens read, in the order of reading; None while nothing is drafted.
    """

    ahead: Tensor | None = None
    known: list[Tensor] | None = None

    @classmethod
    def of(cls, reader: RewardReader) -> "DraftingReader":
        """Take a reader's place."""
        return cls(**{item.name: getattr(reader, item.name) for item in fields(RewardReader)})

    def start_draft(self) -> None:
        """Keep all logits from now on, until the draft has been verified (`crop`)."""
        self.ahead, self.known = None, []

    def extend(self, ids: Tensor, mask: Tensor | None) -> None:
        """Note new ids, but those that were noted ahead; if other ids come, the draft is forgotten."""
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            count = ahead.shape[1]
            if ids.shape[1] < count or not torch.equal(ids[:, :count], ahead.to(ids.device)):
                self.crop(count)
            else:
                ids, mask = ids[:, count:], None if mask is None else mask[:, count:]
        if ids.shape[1]:
            super().extend(ids, mask)

    def logits(self, keep: int) -> Tensor:
        """Logits `(batch, keep, vocab)` of the last tokens noted: read now, or known from drafting."""
        if self.known is None:
            return super().logits(keep)
        unread = 0 if self.pending is None else self.pending.shape[1]
        if unread:
            fresh = super().logits(min(keep, unread))
            # what is kept has no gap: logits of the tokens just before these, or of these alone
            self.known = [*self.known, fresh] if fresh.shape[1] == unread else [fresh]
            if fresh.shape[1] == keep:
                return fresh
        return torch.cat(self.known, 1)[:, -keep:]

    def crop(self, removed: int) -> None:
        """Forget the last `removed` tokens, and all logits: the draft is over."""
        self.ahead, self.known = None, None
        super().crop(removed)


class GuidedDrafts(AssistedCandidateGenerator):
    """Drafts with the call's reward models: one of them alone, or all of them guiding a small base.

    A reward model that drafts alone stands for the base too: it is guided by itself, which sharpens it to the power of
    1 + alpha. Length of a draft and confidence threshold are those of the assistant's generation config; where it has
    none, transformers' defaults for greedy drafts, and `SAMPLED_DRAFTS` for sampled ones.

    Args:
        call: the guided call.
        cache: its cache.
        vocab: size of the base's vocabulary.
        drafting: indices of the terms that draft.
        small: reader of the small base; None where the first of `drafting` stands for it.
        **stock: as in transformers' `AssistedCandidateGenerator`.
    """

    def __init__(
        self,
        call: GuidedCall,
        cache: GuidedCache,
        vocab: int,
        drafting: Sequence[int],
        small: RewardReader | None,
        **stock: Any,
    ) -> None:
        super().__init__(**stock, model_kwargs={})
        if self.generation_config.do_sample:
            for name, value in SAMPLED_DRAFTS.items():
                if getattr(stock["assistant_model"].generation_config, name) is None:
                    setattr(self, name, value)
        self.processors = stock["logits_processor"]
        self.call, self.cache, self.small = call, cache, small
        self.vocab = vocab
        ends = getattr(stock["generation_config"], "_eos_token_tensor", None)
        self.ends = None if ends is None else ends.flatten()
        self.readers: list[DraftingReader | None] = [None] * len(cache.readers)
        for index in drafting:
            reader = cache.readers[index]
            assert reader is not None
            self.readers[index] = cache.readers[index] = DraftingReader.of(reader)

    def get_candidates(self, input_ids: Tensor, **_: Any) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """A draft behind the text.

        Args:
            input_ids: `(1, length)`.

        Returns:
            ids `(1, length + drafted)`, and the processed scores `(1, drafted, vocab)` that they were drawn from; None
            without a draft.
        """
        count = min(int(self.num_assistant_tokens), self.main_model_max_length - input_ids.shape[1] - 1)
        if count <= 0:
            return input_ids, None
        drafting = [reader for reader in self.readers if reader is not None]
        lengths = [reader.length for reader in drafting]
        for reader in drafting:
            reader.start_draft()
        if self.small is not None and self.small.length:
            self.small.crop(max(self.small.length - self.cache.guided_length, 0))
        ids, scores = self._draft(input_ids, count)
        for reader, length in zip(drafting, lengths, strict=True):
            reader.ahead = ids[:, length - reader.length :]
        return ids, torch.stack(scores, 1)

    def _draft(self, ids: Tensor, count: int) -> tuple[Tensor, list[Tensor]]:
        """At most `count` tokens, fewer behind an end of text or a token of little confidence."""
        scores: list[Tensor] = []
        start = self.cache.guided_length
        new = ids[:, start:]
        while True:
            reading = Reading(self.call.guidance, self.call, [*self.readers], None, start, new.shape[1])
            reading.note(new, self.call.prompt_mask)
            if len(scores) == count or (scores and self._ends(scores[-1], new)):
                return ids, scores
            scores.append(self.processors(ids, self._logits(reading, ids)))
            start, new = reading.end, self._choose(scores[-1])
            ids = torch.cat([ids, new], 1)

    def _logits(self, reading: Reading, ids: Tensor) -> Tensor:
        """The draft's logits `(1, vocab)` behind the text."""
        logprobs = [None if r is None else as_logprobs(r.logits(1), ids.device, self.vocab, 1) for r in self.readers]
        if self.small is None:
            base = next(opinion for opinion in logprobs if opinion is not None)
        else:
            self._read_on(self.small, ids)
            base = as_logprobs(self.small.logits(1), ids.device, self.vocab, 1)
        # who drafts stands for the base, where that is a reference too
        logprobs = [
            base if term.is_base else opinion for term, opinion in zip(self.call.guidance.terms, logprobs, strict=True)
        ]
        return combine(base, logprobs, reading.alphas(1, ids.device))[:, -1]

    def _read_on(self, small: RewardReader, ids: Tensor) -> None:
        mask = mask_columns(self.call.prompt_mask, small.length, ids.shape[1])
        small.extend(ids[:, small.length :], mask)

    def _choose(self, scores: Tensor) -> Tensor:
        if self.generation_config.do_sample:
            return scores.softmax(-1).multinomial(1)
        return scores.argmax(-1, keepdim=True)

    def _ends(self, scores: Tensor, token: Tensor) -> bool:
        """Whether a draft ends with this token; an accelerator is waited for once, and only if there is a reason to."""
        reasons = []
        if self.ends is not None:
            reasons.append((token == self.ends.to(token.device)).any())
        if self.assistant_confidence_threshold:
            reasons.append((scores.softmax(-1).gather(-1, token) < self.assistant_confidence_threshold).any())
        return bool(torch.stack(reasons).any()) if reasons else False


def drafting_model(guidance: Guidance, assistant: Any) -> int | None:
    """Index of the term that an assistant is, where it reads in passes of its own; None otherwise."""
    model = assistant_lm(assistant)
    terms = guidance.at_work()
    return next((index for index, term in terms if term.model is model and not term.on_base), None)


def as_assistant(assistant: Any, models: Sequence[Any]) -> Any:
    """An assistant as `generate()` takes it: a reward model drafts with its causal LM.

    Raises:
        TypeError: it is an implicit reward, which is no distribution to draft from.
    """
    if is_implicit(assistant):
        raise TypeError(
            "`assistant_model` is an ImplicitRewardModel, a difference of two models, which gives no drafts. Pass its "
            "`.tuned`, or a small base."
        )
    model = assistant_lm(assistant)
    is_reward_model = getattr(getattr(assistant, "config", None), "model_type", None) == "genarm"
    return model if is_reward_model or any(model is owner for owner in models) else assistant


def assistant_lm(assistant: Any) -> Any:
    """The causal LM inside whatever wraps an assistant, a reward model for instance."""
    model = getattr(assistant, "_orig_mod", assistant)
    if getattr(getattr(model, "config", None), "model_type", None) == "genarm":
        model = model.backbone
    return unwrap(model)


def guided_drafts(
    call: GuidedCall, vocab: int, model_kwargs: dict[str, Any], tokenizers: Sequence[Any], **stock: Any
) -> GuidedDrafts | None:
    """Drafts by the call's own reward models, where the assistant is one of them or a small base for them to guide.

    Args:
        call: the guided call.
        vocab: size of the base's vocabulary.
        model_kwargs: the base's inputs.
        tokenizers: of base and assistant, where they have two.
        **stock: other arguments of `AssistedCandidateGenerator`.

    Returns:
        None where transformers' own drafts are to be used: they are of another kind, the reward models run in the
        base's pass, the assistant has a vocabulary of its own, or the prompt is given as embeddings.
    """
    cache, assistant = model_kwargs.get("past_key_values"), stock["assistant_model"]
    assert call.prompt_ids is not None
    if (
        not isinstance(cache, GuidedCache)
        or call.prompt_ids.shape[1] != call.prompt_length
        or any(getattr(stock["generation_config"], name, None) for name in OTHER_DRAFTS)
    ):
        return None
    index = drafting_model(call.guidance, assistant)
    drafting = [index for index, reader in enumerate(cache.readers) if reader is not None and reader.cache is not None]
    if index is not None:
        return GuidedDrafts(call, cache, vocab, [index], None, **stock) if index in drafting else None
    small = _small_base(assistant, vocab) if drafting and None in tokenizers else None
    return None if small is None else GuidedDrafts(call, cache, vocab, drafting, small, **stock)


def _small_base(assistant: Any, vocab: int) -> RewardReader | None:
    """A reader of a plain causal LM with the base's vocabulary; None for other assistants."""
    plain = not assistant.config.is_encoder_decoder and not type(assistant).__name__.startswith("Gemma4")
    if not plain or vocab_size(assistant) != vocab:
        return None
    small = RewardReader.open(assistant, True, base_vocab=vocab)
    small.record_past("assistant_model")
    return small if small.cache is not None else None


def counted(generator: Any, speculation: Speculation) -> Any:
    """Any candidate generator, with its drafts counted."""
    draft, update = generator.get_candidates, generator.update_candidate_strategy
    drafted: list[tuple[int, Tensor]] = []

    def get_candidates(input_ids: Tensor, **kwargs: Any) -> Any:
        ids, scores = draft(input_ids, **kwargs)
        speculation.rounds += 1
        speculation.drafted += ids.shape[1] - input_ids.shape[1]
        drafted[:] = [(input_ids.shape[1], ids)]
        return ids, scores

    def update_candidate_strategy(input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        # not `num_matches`, which leaves out an end of text that was accepted
        (start, ids), end = drafted[0], input_ids.shape[1]
        accepted = ids[0, start:end] == input_ids[0, start : ids.shape[1]].to(ids.device)
        speculation.accepted += int(accepted.long().cumprod(0).sum())
        update(input_ids, scores, num_matches)

    generator.get_candidates, generator.update_candidate_strategy = get_candidates, update_candidate_strategy
    return generator
