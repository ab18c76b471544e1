"""Continuous batching with reward models: `generate_batch()` and its manager, each request with an alpha of its own.

transformers lays the tokens of all running requests end to end and runs the model on them. Here base and reward models
run on the same tokens, with the same indices into one paged cache that has the layers of all of them (`paged_cache`),
and the base's logits are guided before they leave the forward. A request's alpha travels with it as the arguments of
per-request logits processors do, so that queueing, eviction, forks and CUDA graphs take it along.
"""

import copy
import inspect
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager, ContinuousMixin
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.generic import is_flash_attention_requested

from ..guidance import as_alpha, combine
from ..vocabulary import align, vocab_size
from .guidance_plan import Guidance, check_alpha
from .guided_model import _evaluating
from .paged_cache import PagedAttentionCache, SectionCache, joint_layout
from .reward_models import check_positions

USE_GENERATE = "Use generate() with a padded batch."


class Prompt(list):
    """A request's ids, with its alpha: one number per reward model."""

    def __init__(self, ids: Iterable[int], alpha: tuple[float, ...]):
        super().__init__(ids.tolist() if isinstance(ids, Tensor) else ids)
        self.alpha = alpha


class RequestAlpha(ContinuousBatchingLogitsProcessor):
    """Carries one term's alpha of every request to the forward, and leaves the scores as they are."""

    supported_kwargs = {"alpha": tuple}
    ignored_kwargs = ()

    def __init__(self, term: int):
        self.term = term

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """0: rows that are no request's."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        """Alphas `(requests,)`, float32 stored as int32."""
        off = (0.0,) * (self.term + 1)  # warm-up has requests that nobody made
        rows = [request.state.logit_processor_kwargs.get("alpha", off) for request in requests_with_new_token]
        return torch.tensor([row[self.term] for row in rows], dtype=torch.float32).view(torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """The scores: the forward has guided them."""
        return scores


class GuidedBatching(ContinuousMixin):
    """Base and reward models as the one model that transformers' continuous batching runs.

    What is not defined here is the base's own.

    Args:
        base: the base.
        guidance: who guides it.
        working: indices of the terms that are not switched off.
    """

    # the base may keep a manager of unguided calls, which is not ours
    _cached_continuous_batching_manager = None

    def __init__(self, base: Any, guidance: Guidance, working: Sequence[int]):
        self.base, self.guidance, self.working = base, guidance, list(working)
        terms = [guidance.terms[index] for index in self.working]
        # the base is one of them where it is a reference too; it runs once
        self.arms = [term.model for term in terms if not term.is_base]
        self.names = [term.name for term in terms if not term.is_base]
        places = iter(range(1, len(terms) + 1))
        self.places = [0 if term.is_base else next(places) for term in terms]
        if getattr(base, "_device_mesh", None) is not None:
            raise ValueError("Continuous batching with reward models takes no tensor-parallel base. " + USE_GENERATE)
        for name, model in zip(self.names, self.arms, strict=True):
            _check_model(model, name, base)
        _check_model(base, "the base", base)
        self.config, self.sections = joint_layout((base, *self.arms), ("the base", *self.names))
        self.vocab = vocab_size(base)
        self.reward_vocabs = [vocab_size(arm) for arm in self.arms]
        self._views: tuple[Any, list[SectionCache]] = None, []

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    # ------------------------------------------------------------------ one forward

    def __call__(self, **batch: Any) -> CausalLMOutput:
        """Guided logits `(1, rows, vocab)` of the tokens that `logits_indices` names.

        Args:
            **batch: what transformers prepared: tokens of all requests `(1, tokens)`, indices into the cache, and the
                arguments of logits processors, whose first rows are the alphas.
        """
        alphas = batch["logits_processor_args"][: len(self.places)].view(torch.float32)
        guided = logits = self._logits(0, batch)
        # one after another: all on one device, and the logits of many requests are large
        for place, alpha in zip(self.places, alphas, strict=True):
            opinion = self._logits(place, batch) if place else logits
            logprobs = align(opinion.log_softmax(-1, dtype=torch.float32), self.vocab)
            guided = combine(guided, [logprobs], [alpha[:, None]])
        return CausalLMOutput(logits=guided)  # type: ignore[arg-type]

    def _logits(self, index: int, batch: dict[str, Any]) -> Tensor:
        """Logits `(1, rows, its vocab)` of the base (0) or a reward model."""
        model = self.arms[index - 1] if index else self.base
        inputs = dict(batch, cache=self._view(index, batch["cache"]))
        inputs["attention_mask"] = self.sections[index].mask(batch["attention_mask"])
        if index and self.reward_vocabs[index - 1] < self.vocab:
            # only a request that this model does not guide has tokens that it lacks
            inputs["input_ids"] = batch["input_ids"].clamp(max=self.reward_vocabs[index - 1] - 1)
        rows = inputs.pop("logits_to_keep")
        if model._supports_logits_to_keep():
            return model(**inputs, logits_to_keep=rows).logits
        return model(**inputs).logits[:, rows]

    def _view(self, index: int, cache: Any) -> SectionCache:
        if self._views[0] is not cache:
            self._views = cache, [SectionCache(cache, section) for section in self.sections]
        return self._views[1][index]

    def _supports_logits_to_keep(self) -> bool:
        return True

    # ------------------------------------------------------------------ what transformers asks of a model

    def eval(self) -> "GuidedBatching":
        """Itself: the models are put into evaluation mode for as long as the manager runs, not for good."""
        return self

    @property
    def generation_config(self) -> Any:
        """A copy of the base's, which transformers may complete."""
        return copy.copy(self.base.generation_config)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        stock = self.base._get_logits_processor(*args, **kwargs)
        return LogitsProcessorList([*(RequestAlpha(term) for term in range(len(self.places))), *stock])

    def init_continuous_batching(
        self,
        generation_config: Any = None,
        continuous_batching_config: Any = None,
        workload_hints: Any = None,
    ) -> "GuidedManager":
        """A manager of guided requests; the arguments are transformers'."""
        models = (self.base, *self.arms)
        if any(section.own != section.page for section in self.sections):
            # flash attention's own reading of block tables wants keys of one shape
            continuous_batching_config = copy.copy(continuous_batching_config or ContinuousBatchingConfig())
            continuous_batching_config.max_blocks_per_request = 0
        with ExitStack() as stack:
            stack.enter_context(_evaluating(models))
            stack.callback(_restore_attention, [(model, model.config._attn_implementation) for model in models])
            manager: Any = super().init_continuous_batching(
                copy.copy(generation_config), continuous_batching_config, workload_hints
            )
            for arm in self.arms:
                _match_attention(arm, self.base)
            # transformers names its class where it makes one; ours adds methods and no state but this
            manager.__class__ = GuidedManager
            manager.logit_processor.tensors_required += len(self.places)
            manager.undo = stack.pop_all()
        return manager

    # ------------------------------------------------------------------ requests

    def request_alpha(self, alpha: Any) -> tuple[float, ...]:
        """A request's alpha, one number per term at work, from one per reward model; the call's own where it has none.

        Raises:
            ValueError: it does not fit the reward models.
        """
        rows = self.guidance.term_alpha(self.guidance.given_alpha if alpha is None else alpha)
        if len(rows) != 1:
            raise ValueError(f"`alpha` of one request must be one row of numbers, got {len(rows)} rows.")
        return tuple(rows[0, self.working].tolist())

    def check_prompt(self, ids: Sequence[int], alpha: tuple[float, ...], new_tokens: int) -> None:
        """Refuse a prompt that a reward model at work on it cannot read.

        Raises:
            ValueError: it is too long, or has ids that a reward model lacks.
        """
        for place, strength in zip(self.places, alpha, strict=True):
            if strength == 0 or not place:
                continue
            arm, name, vocab = self.arms[place - 1], self.names[place - 1], self.reward_vocabs[place - 1]
            check_positions(arm, name, len(ids), new_tokens)
            if max(ids, default=0) >= vocab:
                raise ValueError(
                    f"A prompt has the id {max(ids)}, and {name} knows {vocab} ids. generate() hides "
                    "such tokens from it, which continuous batching cannot do."
                )


class GuidedManager(ContinuousBatchingManager):
    """transformers' manager, whose requests may have an `alpha` of their own."""

    model: GuidedBatching
    undo: ExitStack
    stopped = False

    def add_request(self, input_ids: Any, *args: Any, alpha: Any = None, **kwargs: Any) -> str | None:
        """Queue a request.

        Args:
            input_ids: the prompt's ids.
            *args: as transformers', as `**kwargs`.
            alpha: guidance strength of this request, a number or one per reward model. None: the manager's.
            **kwargs: as transformers'.
        """
        row = self.model.request_alpha(getattr(input_ids, "alpha", None) if alpha is None else alpha)
        new_tokens = kwargs.get("max_new_tokens", args[1] if len(args) > 1 else None)
        self.model.check_prompt(input_ids, row, new_tokens or self.generation_config.max_new_tokens or 0)
        return super().add_request(input_ids, *args, alpha=row, **kwargs)

    def add_requests(self, inputs: Any, *args: Any, alpha: Any = None, **kwargs: Any) -> list[str]:
        """Queue several requests.

        Args:
            inputs: the prompts' ids.
            *args: as transformers', as `**kwargs`.
            alpha: for all of them, or `(requests, arms)`.
            **kwargs: as transformers'.
        """
        if alpha is not None:
            rows = _alpha_rows(as_alpha(alpha, len(self.model.guidance.rewards)), len(inputs))
            inputs = [Prompt(ids, row) for ids, row in zip(inputs, rows, strict=True)]
        return super().add_requests(inputs, *args, **kwargs)

    def warmup(self) -> None:
        """Compile and capture what is to be, and leave the models as they were before if that fails."""
        try:
            super().warmup()
        except BaseException:
            self.undo.close()
            raise

    def start(self) -> None:
        """Start, once.

        Raises:
            RuntimeError: it has been stopped, and the models are as they were before.
        """
        if self.stopped:
            raise RuntimeError("A guided manager is started once: make another with `init_continuous_batching()`.")
        super().start()

    def stop(self, *args: Any, **kwargs: Any) -> None:
        """Stop, and leave the models as they were before, as soon as the last request is through.

        Raises:
            ValueError: it is to be kept on the model, which is not guided afterwards.
        """
        if kwargs.get("keep_for_next_session"):
            raise ValueError("A guided manager cannot be kept on the model (`keep_for_next_session`): call `stop()`.")
        thread = self._generation_thread
        super().stop(*args, **kwargs)
        self.stopped = True
        if thread is not None and thread.is_alive():  # `block=False`, or a timeout
            Thread(target=self._undo_behind, args=(thread,), daemon=True).start()
        else:
            self.undo.close()

    def _undo_behind(self, thread: Thread) -> None:
        thread.join()
        self.undo.close()


def check_internals() -> None:
    """Look for the inner workings of transformers that this module builds on.

    Raises:
        AttributeError: they are not there.
    """
    expected = {PagedAttentionCache.update: "kwargs", PagedAttentionCache.__init__: "model_supports_logits_to_keep"}
    for function, name in expected.items():
        if name not in inspect.signature(function).parameters:
            raise AttributeError(f"{function.__qualname__} has no argument {name!r}")


def with_alpha(guided: Any, alpha: Any) -> Any:
    """A guided model with another alpha, over the same models."""
    guidance = guided._guidance
    return SimpleNamespace(
        _base=guided._base, _guidance=replace(guidance, given_alpha=check_alpha(alpha, len(guidance.rewards)))
    )


def generate_batch(guided: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Guided `generate_batch()`, as transformers has it.

    Args:
        guided: the guided model, whose alpha is `(1 | requests, arms)`.
        inputs: ids of each prompt.
        *args: as transformers', as `**kwargs`.
        **kwargs: as transformers'.

    Raises:
        TypeError: `inputs` are no lists of ids.
        ValueError: something that continuous batching cannot do with reward models; the message says what else can.
    """
    base, guidance = guided._base, guided._guidance
    _check_guidance(guidance)
    _check_prompts(inputs)
    guidance.check_rows(len(inputs))
    if kwargs.get("persistent_manager"):
        raise ValueError(
            "`persistent_manager=True` would keep a manager on a model that is not guided afterwards. Keep one "
            "yourself: `model.init_continuous_batching(reward_models=...)`."
        )
    if not any(guidance.active) or not len(inputs):
        return base.generate_batch(inputs, *args, reward_models=[], **kwargs)
    # without the reward models that are switched off in every request
    model = GuidedBatching(base, guidance, [index for index, active in enumerate(guidance.active) if active])
    rows = _alpha_rows(guidance.given_alpha, len(inputs))  # type: ignore[arg-type]
    prompts = [Prompt(ids, row) for ids, row in zip(inputs, rows, strict=True)]
    config = kwargs.get("generation_config", args[0] if args else None) or base.generation_config
    _check_search(config, kwargs)
    for prompt in prompts:
        row = model.request_alpha(prompt.alpha)
        model.check_prompt(prompt, row, kwargs.get("max_new_tokens") or config.max_new_tokens or 0)
    return model.generate_batch(prompts, *args, **kwargs)


def init_batching(guided: Any, *args: Any, **kwargs: Any) -> "GuidedManager":
    """Guided `init_continuous_batching()`, as transformers has it.

    Args:
        guided: the guided model, whose alpha is that of requests which bring none.
        *args: as transformers', as `**kwargs`.
        **kwargs: as transformers'.

    Raises:
        ValueError: something that continuous batching cannot do with reward models; the message says what else can.
    """
    base, guidance = guided._base, guided._guidance
    _check_guidance(guidance)
    if guidance.batch_size is not None:
        raise ValueError(
            f"`alpha` has {guidance.batch_size} rows, and a manager has no requests yet. Pass one row here, and each "
            "request's own to `add_request(ids, alpha=...)`."
        )
    _check_search(kwargs.get("generation_config", args[0] if args else None) or base.generation_config, {})
    return GuidedBatching(base, guidance, range(len(guidance.terms))).init_continuous_batching(*args, **kwargs)


def _check_guidance(guidance: Guidance) -> None:
    """Refuse what continuous batching cannot follow."""
    if not isinstance(guidance.given_alpha, Tensor):
        raise ValueError(
            "Continuous batching takes no callable `alpha`: requests are at different steps. Pass numbers, one row "
            "per request, or call generate()."
        )
    if any(prompt is not None for prompt in guidance.prompts):
        raise ValueError(
            "Continuous batching takes no `reward_inputs`: reward models read the base's own packed tokens. Call "
            "generate() with a padded batch."
        )


def _check_search(config: Any, kwargs: dict[str, Any]) -> None:
    beams = kwargs.get("num_beams") or getattr(config, "num_beams", None) or 1
    if beams > 1:
        raise ValueError(f"Continuous batching has no beam search, and `num_beams` is {beams}. {USE_GENERATE}")


def _check_prompts(inputs: Any) -> None:
    listed = isinstance(inputs, (list, tuple, Tensor))
    if not listed or not all(isinstance(ids, (list, tuple, Tensor)) and len(ids) for ids in inputs):
        raise TypeError(
            "`inputs` must be a list of prompts, each a list of at least one id without padding, as "
            '`tokenizer(texts)["input_ids"]` gives it.'
        )


def _alpha_rows(alpha: Tensor, requests: int) -> list[tuple[float, ...]]:
    if len(alpha) not in (1, requests):
        raise ValueError(f"`alpha` has {len(alpha)} rows, and there are {requests} requests: give each one row.")
    return [tuple(row) for row in alpha.expand(requests, -1).tolist()]


def _match_attention(arm: Any, base: Any) -> None:
    """Let a reward model's layers read what is prepared for the base's: masks, or none for flash attention."""
    own, used = arm.config._attn_implementation, base.config._attn_implementation
    if is_flash_attention_requested(requested_attention_implementation=used):
        wanted = used
    else:
        wanted = {"sdpa": "sdpa", "eager": "paged|eager", "paged|eager": "paged|eager"}.get(own, used)
    if wanted != own:
        arm.set_attn_implementation(wanted)


def _restore_attention(before: Sequence[tuple[Any, str]]) -> None:
    for model, implementation in before:
        if model.config._attn_implementation != implementation:
            model.set_attn_implementation(implementation)


def _check_model(model: Any, name: str, base: Any) -> None:
    if not getattr(model, "_supports_attention_backend", False):
        raise ValueError(
            f"{name} ({type(model).__name__}) has attention layers of its own kind, which continuous batching cannot "
            f"give a paged cache. {USE_GENERATE}"
        )
    for what in ("device", "dtype"):
        if getattr(model, what) != getattr(base, what):
            raise ValueError(
                f"{name} is on {what} {getattr(model, what)} and the base on {getattr(base, what)}. In continuous "
                f"batching all models share one cache: move it with `.to({getattr(base, what)!r})`, or use generate()."
            )
