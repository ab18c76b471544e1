"""`guide()`: base and reward models as one object whose forward returns guided logits.

A guided model is a shallow stand-in of the base, of a subclass of its class. Its forward calls the *original object*,
never `super().forward`, so that hooks, adapters, quantisation and compiled calls of the base keep working, and it never
changes the base. All state of a generation lives in the call and its cache, so threads may share the models.
"""

import contextlib
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import StaticCache
from transformers.generation import GenerationMode
from transformers.generation.configuration_utils import ALL_STATIC_CACHE_IMPLEMENTATIONS
from transformers.utils import logging

from ..adapters import has_adapters, without_adapters
from ..guidance import Alpha, mask_columns, position_ids_from_mask, token_logprobs
from ..vocabulary import check_vocabularies, vocab_size
from .call import GuidedCall
from .guidance_plan import Guidance, Term, check_alpha
from .guided_cache import GuidedCache, guided_cache
from .reading import Reading
from .reward_models import Reward, as_list, as_rewards, check_positions, default_alpha, one_each
from .reward_prompts import as_reward_prompts
from .reward_reader import CACHE_NAMES, RewardReader, lasting_length, own_memory, static_capacity
from .shared_backbone import (
    SharedBackbone,
    is_base,
    takes_inputs,
    why_no_own_prompts,
    why_not_shared,
)
from .speculative import OTHER_DRAFTS, Speculation, as_assistant, counted, drafting_model, guided_drafts

logger = logging.get_logger(__name__)

# a stand-in runs none of the base's own hooks: the base does, when it is called
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_DRAFT_ARGUMENTS = ("assistant_model", "input_ids", "inputs_tensor", "generation_config", "logits_processor")
_INSTANCE_OVERRIDES = (
    "forward",
    "_old_forward",
    "_hf_hook",
    "generate",
    "_compiled_call",
    "prepare_inputs_for_generation",
)


class GuidedModel:
    """Mixed into the base's class by [`guide`]: a causal LM whose distribution is the guided policy.

    Whatever takes a causal LM takes a guided model: `generate()` in all its modes, `pipeline()`, scoring harnesses.
    """

    _base: Any
    _guidance: Guidance
    _call: GuidedCall | None
    _joint_call: Callable[..., Any] | None
    _forward_names: tuple[str, ...]

    # ------------------------------------------------------------------ scoring

    def _guided_forward(self, *args: Any, return_logprobs: bool = False, **kwargs: Any) -> Any:
        """The base's forward with guided logits.

        Args:
            *args: the base's own, as `**kwargs`.
            return_logprobs: return `logits` normalised: the guided policy's log-probabilities in nats. Otherwise they
                are `base_logits + sum_i alpha_i log pi_i`, on the base's scale.
            **kwargs: the base's own.

        Returns:
            the base's output with float32 `logits` `(batch, length, vocab)`; bit-identical to the base's where no
            reward model guides.

        Raises:
            ValueError: `labels` are given, whose loss the base would compute on its own unguided logits.
        """
        kwargs.update(zip(self._forward_names, args, strict=False))
        if kwargs.get("labels") is not None:
            raise ValueError(
                "A guided model takes no `labels`: compute the loss from its `logits` (return_logprobs=True)."
            )
        as_tuple = kwargs.pop("return_dict", None) is False
        # generate() has put the reward models to eval for the whole call already
        with _evaluating(self._guidance.models) if self._call is None else contextlib.nullcontext():
            outputs = self._guided_outputs(kwargs)
        if return_logprobs:
            outputs.logits = outputs.logits.float().log_softmax(-1)
        return outputs.to_tuple() if as_tuple else outputs

    def _guided_outputs(self, kwargs: dict[str, Any]) -> Any:
        reading = self._start_reading(kwargs)
        opinions: dict[int, Tensor] = {}
        if self._call is not None and self._call.speculation is not None:
            self._call.speculation.base_forwards += 1
        if reading is None or reading.shared is None:
            outputs = self._base(**kwargs, return_dict=True)
        else:
            joint = self._joint_call or reading.shared.joint
            outputs, opinions = reading.shared(joint, reading.start, **kwargs, return_dict=True)
        if reading is not None and any(reader is not None and reader.compiled for reader in reading.readers):
            # another compiled call follows before these are used
            outputs.logits = own_memory(outputs.logits)
            opinions = {index: own_memory(logits) for index, logits in opinions.items()}
        if reading is not None:
            outputs.logits = reading.guide(outputs.logits, opinions)
            if self._call is None:
                self._keep_caches(outputs, reading)
        return outputs

    @torch.no_grad()
    def token_logprobs(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Log-probability of every token under the guided policy.

        Args:
            input_ids: `(batch, length)`.
            attention_mask: `(batch, length)`, 1 = token.

        Returns:
            float32 `(batch, length)` in nats; 0 for the first token, which nothing predicts.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        if attention_mask is not None and "position_ids" in self._forward_names:
            inputs["position_ids"] = position_ids_from_mask(attention_mask)
        return token_logprobs(self(**inputs).logits, input_ids)  # type: ignore[operator]

    # ------------------------------------------------------------------ generating

    def generate(
        self,
        *args: Any,
        alpha: Alpha | None = None,
        reward_inputs: Any = None,
        output_rewards: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Stock `generate()` on the guided policy.

        Args:
            *args: as in `generate()`.
            alpha: replaces the guided model's own for this call.
            reward_inputs: prompts of the reward models' own, for this call.
            output_rewards: with `return_dict_in_generate=True`, add `rewards`: float32 `(arms, sequences,
                new_tokens)`, log pi_i of each generated token in nats, 0 behind the end of a sequence.
            **kwargs: as in `generate()`. With drafts (`assistant_model`, `prompt_lookup_num_tokens`) and
                `return_dict_in_generate=True`, the output has `speculation`, see [`Speculation`].
        """
        guidance = self._guidance
        if alpha is not None:
            guidance = replace(guidance, given_alpha=check_alpha(alpha, len(guidance.rewards)))
        if reward_inputs is not None:
            prompts = as_reward_prompts(reward_inputs, len(guidance.rewards))
            guidance = replace(guidance, given_prompts=prompts)
        if output_rewards and not _asked(self, args, kwargs, "return_dict_in_generate"):
            raise ValueError(
                "`output_rewards=True` needs `return_dict_in_generate=True`: a plain tensor has no place for `rewards`."
            )
        if _asked(self, args, kwargs, "guidance_scale") not in (None, 1):
            raise ValueError(
                "`guidance_scale` (classifier-free guidance) runs the model twice; use reward models or it."
            )
        if _asked(self, args, kwargs, "cache_implementation") == "paged":
            raise ValueError(
                "`cache_implementation='paged'` takes no reward models: it reads padding as text. Call "
                "`model.generate_batch([ids, ...], reward_models=..., alpha=...)` with unpadded lists of ids."
            )
        if _asked(self, args, kwargs, "assistant_early_exit") or kwargs.get("position_ids") is not None:
            # the base drafts with fewer layers than a joint pass has; and its positions need not be a reward model's
            guidance = replace(guidance, adapters=())
        assisted = self._check_assisted(args, kwargs)
        call = _stand_in(self._base, guidance, GuidedCall(guidance, output_rewards=output_rewards, assisted=assisted))
        with _evaluating(guidance.models):
            outputs = super(GuidedModel, call).generate(*args, **kwargs)  # type: ignore[misc]
            if output_rewards:
                from .rewards import generated_rewards

                outputs["rewards"] = generated_rewards(call._call, outputs.sequences, call._end_ids(args, kwargs))
            if call._call.speculation is not None and not isinstance(outputs, Tensor):
                outputs["speculation"] = call._call.speculation.finish(guidance)
        return outputs

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Stock continuous batching on the guided policy; `alpha` may have a row for each request."""
        from .generation import generate_batch_guided

        return generate_batch_guided(super().generate_batch, self, args, kwargs)  # type: ignore[misc]

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """A manager of guided requests, each with an `alpha` of its own if it likes."""
        from .generation import init_guided_batching

        return init_guided_batching(super().init_continuous_batching, self, args, kwargs)  # type: ignore[misc]

    def _check_assisted(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the call asks for drafts; they need a cache that can be rolled back."""
        asked = kwargs.get("assistant_model"), *(_asked(self, args, kwargs, name) for name in OTHER_DRAFTS)
        if all(value is None or value is False for value in asked):
            return False
        kwargs["assistant_model"] = as_assistant(kwargs.get("assistant_model"), self._guidance.models)
        implementation = str(_asked(self, args, kwargs, "cache_implementation") or "")
        if implementation in ALL_STATIC_CACHE_IMPLEMENTATIONS or isinstance(kwargs.get("past_key_values"), StaticCache):
            raise ValueError(
                "Assisted decoding rolls rejected drafts back, which static caches cannot do: leave out "
                "`cache_implementation` and static `past_key_values`, or the assistant."
            )
        return True

    def _validate_generation_mode(self, mode: Any, generation_config: Any, arguments: dict[str, Any]) -> None:
        if self._call is not None and drafting_model(self._call.guidance, arguments.get("assistant_model")) is not None:
            # its vocabulary has been compared with the base's already, and may be padded otherwise
            arguments = {name: value for name, value in arguments.items() if name != "assistant_model"}
        super()._validate_generation_mode(mode, generation_config, arguments)  # type: ignore[misc]

    def _get_candidate_generator(self, **kwargs: Any) -> Any:
        """Stock's drafts, or the reward models' own, alone or with a small base."""
        if self._call is None:
            return super()._get_candidate_generator(**kwargs)  # type: ignore[misc]
        generator = None
        if kwargs.get("assistant_model") is not None:
            stock = {name: kwargs[name] for name in _DRAFT_ARGUMENTS}
            tokenizers = kwargs.get("target_tokenizer"), kwargs.get("assistant_tokenizer")
            generator = guided_drafts(self._call, self._vocab, kwargs["model_kwargs"], tokenizers, **stock)
        if generator is None:
            generator = super()._get_candidate_generator(**kwargs)  # type: ignore[misc]
        cache = kwargs["model_kwargs"].get("past_key_values")
        readers = cache.readers if isinstance(cache, GuidedCache) else []
        self._call.speculation = Speculation(readers=readers, small=getattr(generator, "small", None))
        return counted(generator, self._call.speculation)

    def _prepare_model_inputs(self, *args: Any, **kwargs: Any) -> Any:
        inputs, name, model_kwargs = super()._prepare_model_inputs(*args, **kwargs)  # type: ignore[misc]
        if self._call is not None:
            ids = inputs if name == "input_ids" else model_kwargs.get("input_ids")
            if self._is_encoder_decoder:
                decoder_ids = model_kwargs.get("decoder_input_ids")
                length = 1 if decoder_ids is None else decoder_ids.shape[1]
            else:
                length = None if ids is None or not ids.shape[1] else ids.shape[1]
            self._call.check_inputs(inputs.shape[0], length)
        return inputs, name, model_kwargs

    def _expand_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        call = self._call
        if call is not None:
            call.expand = kwargs.get("expand_size", args[0] if args else 1)
            call.prompt_ids = kwargs.get("input_ids")
            mask = kwargs.get("decoder_attention_mask" if self._is_encoder_decoder else "attention_mask")
            call.prompt_mask = None if mask is None else mask.repeat_interleave(call.expand, 0)
        return super()._expand_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], mode: Any, *args: Any
    ) -> Any:
        call = self._call
        if call is None:
            return super()._prepare_cache_for_generation(generation_config, model_kwargs, mode, *args)  # type: ignore[misc]
        call.shared = self._joint_pass(call, model_kwargs, call.new_tokens(generation_config.max_length))
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, mode, *args)  # type: ignore[misc]
        name = next((name for name in CACHE_NAMES if model_kwargs.get(name) is not None), "")
        past = _past_length(model_kwargs[name]) if name else 0
        if past and call.assisted:
            raise ValueError(
                f"`past_key_values` holds {past} tokens, which transformers' assisted decoding would read a second "
                "time. Pass the whole text without a cache, or generate without drafts."
            )
        call.place_prompt(
            generation_config, None if self._is_encoder_decoder else model_kwargs.get("inputs_embeds"), past
        )
        call.check_total_length(generation_config.max_length)
        if not any(call.guidance.active):
            if name:
                _check_rows(model_kwargs[name], None, past)
            return result
        if not name and generation_config.use_cache and not self._supports_default_dynamic_cache():  # type: ignore[attr-defined]
            raise ValueError(
                f"{type(self).__name__} keeps a cache of its own kind, which guidance cannot follow. Pass "
                "`use_cache=False`."
            )
        if name:
            model_kwargs[name] = self._guided_cache(call, model_kwargs[name], past)
            if generation_config.is_assistant or mode == GenerationMode.ASSISTED_GENERATION:
                model_kwargs[name].record_past()
        return result

    def _joint_pass(self, call: GuidedCall, model_kwargs: dict[str, Any], new_tokens: int) -> SharedBackbone | None:
        """The joint pass for a call with these inputs, behind several prompts where that is possible and cheaper."""
        if not takes_inputs(model_kwargs):
            return None
        given = next((model_kwargs[name] for name in CACHE_NAMES if model_kwargs.get(name) is not None), None)
        reason = why_no_own_prompts(self._base, given)
        if reason is not None and call.guidance.share_always and any(call.guidance.prompts):
            raise ValueError(
                f"`share_backbone=True`, but reward models with `reward_inputs` cannot go through the base's pass: "
                f"{reason}. Leave it out: these read in passes of their own."
            )
        shared = call.guidance.shared_with(self._base, call.prompt() if reason is None else None, call.expand)
        if shared is None or shared.pays(new_tokens, self._base.device) or call.guidance.share_always:
            return shared
        return call.guidance.shared_with(self._base)

    def _guided_cache(self, call: GuidedCall, cache: Any, past: int) -> Any:
        """The given cache with the reward models' own, caught up with the `past` tokens in it."""
        owners, prompts, shared = call.guidance.owners, call.guidance.prompts, call.shared
        if isinstance(cache, GuidedCache) and _same(cache.owners, owners) and not any(prompts):
            readers, seen, shared = cache.readers, cache.guided_length, cache.shared
        else:
            # a cache with tokens in it has the base's rows alone
            shared = None if past else shared
            capacity = static_capacity(cache)
            room = None if capacity is None else capacity - (shared.shift if shared else 0) - call.prompt_length
            readers, seen = self._open_readers(True, shared, room), 0
        call.shared, call.readers = shared, readers
        _check_rows(cache, shared, past)
        behind = (
            [r for r, prompt in zip(readers, prompts, strict=True) if r is not None and prompt is None]
            if seen < past
            else []
        )
        for reader in behind:
            reader.extend(call.past_ids(seen, past), mask_columns(call.prompt_mask, seen, past))
        return guided_cache(cache, readers, past, owners, shared)

    def _prepare_static_cache(self, *args: Any, batch_size: int, max_cache_len: int, **kwargs: Any) -> Any:
        """Stock's, with rows for every stream of a joint pass (it may allocate them at once), and columns."""
        shared = None if self._call is None else self._call.shared
        streams, shift = (1, 0) if shared is None else (shared.streams, shared.shift)
        length = lasting_length(self._base, max_cache_len + shift)
        return super()._prepare_static_cache(*args, batch_size=batch_size * streams, max_cache_len=length, **kwargs)  # type: ignore[misc]

    def _reorder_cache(self, past_key_values: Any, beam_idx: Tensor) -> Any:
        past_key_values.reorder_cache(beam_idx)
        return past_key_values

    def get_compiled_call(self, compile_config: Any) -> Callable[..., Any]:
        """The guided forward around the base's compiled one, joint or alone; reward models' own are compiled too."""
        shared = None if self._call is None else self._call.shared
        for reader in [] if self._call is None else self._call.readers:
            if reader is not None:
                reader.compile(compile_config)
        guided = _stand_in(self._base.get_compiled_call(compile_config), self._guidance, self._call, like=self._base)
        guided.__dict__["_joint_call"] = shared.joint.get_compiled_call(compile_config) if shared else None
        return guided.__call__

    def _end_ids(self, args: tuple, kwargs: dict[str, Any]) -> tuple[list[int], int | None]:
        """Ids that end a sequence and the id that pads it, as this call resolved them."""
        config, _ = self._prepare_generation_config(  # type: ignore[attr-defined]
            _generation_config(args, kwargs), **{k: kwargs[k] for k in ("eos_token_id", "pad_token_id") if k in kwargs}
        )
        eos = config.eos_token_id
        eos = [] if eos is None else list(eos) if isinstance(eos, Sequence) else torch.as_tensor(eos).flatten().tolist()
        pad = config.pad_token_id
        return eos, pad if pad is not None else (eos[0] if eos else None)

    # ------------------------------------------------------------------ one forward

    @property
    def _is_encoder_decoder(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False))  # type: ignore[attr-defined]

    def _open_readers(
        self, use_cache: bool, shared: SharedBackbone | None, static_tokens: int | None = None
    ) -> list[RewardReader | None]:
        """A reader for every term that is at work and does not go through the base's pass."""
        expand, length = (1, 0) if self._call is None else (self._call.expand, self._call.prompt_length)
        readers: list[RewardReader | None] = [None] * len(self._guidance.models)
        for index, term in self._guidance.at_work():
            if shared is None or index not in shared.arms:
                own = None if term.prompt is None else term.prompt.expanded(expand)
                total = None if static_tokens is None else (length if own is None else own.ids.shape[1]) + static_tokens
                readers[index] = RewardReader.open(term.model, use_cache, own, self._vocab, total)
        return readers

    def _start_reading(self, kwargs: dict[str, Any]) -> Reading | None:
        """Note this forward's new tokens for the reward models; None where none of them guides."""
        if not any(self._guidance.active):
            return None
        ids = kwargs.get("decoder_input_ids" if self._is_encoder_decoder else "input_ids")
        if ids is None and self._call is None:
            raise ValueError("A guided forward needs ids: reward models cannot read the base's embeddings.")
        if isinstance(kwargs.get("logits_to_keep"), Tensor):
            raise ValueError(
                "A guided forward takes `logits_to_keep` as a number: the last positions, not chosen ones."
            )
        reading = self._open_reading(kwargs, ids.shape[1] if ids is not None else kwargs["inputs_embeds"].shape[1])
        if self._call is None and ids is not None:
            self._guidance.check_rows(ids.shape[0])
            for _, term in self._guidance.at_work():
                check_positions(term.model, term.name, reading.end)
        key = "decoder_attention_mask" if self._is_encoder_decoder else "attention_mask"
        mask = kwargs.get(key) if self._call is None else self._call.prompt_mask
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise ValueError(
                f"A guided model needs a 2-D `{key}` (batch, length): each reward model builds its own from it."
            )
        reading.note(ids, mask)
        return reading

    def _open_reading(self, kwargs: dict[str, Any], count: int) -> Reading:
        """Who reads this forward, from a guided cache where it has one, else from the start."""
        cache = next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)
        if isinstance(cache, GuidedCache):
            start, cache.guided_length = cache.guided_length, cache.guided_length + count
            return Reading(self._guidance, self._call, cache.readers, cache.shared, start, count)
        if cache is not None and _past_length(cache):
            raise ValueError(
                "`past_key_values` holds tokens that no reward model has read. Start from a guided forward's own cache."
            )
        if self._call is not None:
            shared = self._call.shared
        else:
            shared = self._guidance.shared_with(self._base) if takes_inputs(kwargs) else None
        wants_cache = kwargs.get("use_cache", getattr(self.config, "use_cache", False))  # type: ignore[attr-defined]
        readers = self._open_readers(bool(wants_cache) and self._call is None, shared)
        return Reading(self._guidance, self._call, readers, shared, 0, count)

    def _keep_caches(self, outputs: Any, reading: Reading) -> None:
        """Outside of generate(), the reward models' caches ride on the one that the base made."""
        for name in CACHE_NAMES:
            cache = outputs.get(name)
            if cache is not None and not isinstance(cache, GuidedCache):
                outputs[name] = guided_cache(cache, reading.readers, reading.end, self._guidance.owners, reading.shared)

    @property
    def _vocab(self) -> int:
        size = self.__dict__.get("_vocab_size")
        if size is None:
            size = self.__dict__["_vocab_size"] = vocab_size(self)
        return int(size)


def _generation_config(args: tuple, kwargs: dict[str, Any]) -> Any:
    return kwargs.get("generation_config", args[1] if len(args) > 1 else None)


def _asked(model: Any, args: tuple, kwargs: dict[str, Any], name: str) -> Any:
    """A generation parameter as this call gives it, or a generation config; None where none does."""
    configs = (_generation_config(args, kwargs), model.generation_config)
    values = (kwargs.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in values if value is not None), None)


def _past_length(cache: Any) -> int:
    """Tokens in a cache; purely recurrent ones do not count, and are taken as new."""
    try:
        return int(cache.get_seq_length())
    except ValueError:
        return 0


def _same(these: Sequence[Any], those: Sequence[Any]) -> bool:
    return len(these) == len(those) and all(a is b for a, b in zip(these, those, strict=True))


def _check_rows(cache: Any, shared: SharedBackbone | None, past: int) -> None:
    """Refuse a cache with the rows of a joint pass that is not this call's, or that stand behind several prompts."""
    known = getattr(cache, "shared", None)
    if known is not None and known.prompts is not None:
        raise ValueError(
            "`past_key_values` comes from a call in which reward models on the base's weights read prompts of their "
            "own. Pass the whole text without the cache."
        )
    if past and known is not None and (shared is None or known.joint is not shared.joint):
        raise ValueError(
            "`past_key_values` comes from a call with other reward models on the base's weights, whose rows it "
            "holds. Pass the same "
            "reward models, or the whole text without the cache."
        )


@contextlib.contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Reward models in evaluation mode while anybody reads with them, and as they were when the last has done."""
    for model in models:
        _start_evaluating(model)
    try:
        yield
    finally:
        for model in models:
            _stop_evaluating(model)


# readers of a reward model, in all threads, and its modules that were in training mode before the first of them
_evaluated: "WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]]" = WeakKeyDictionary()
_lock = threading.Lock()


def _start_evaluating(model: nn.Module) -> None:
    with _lock:
        readers, training = _evaluated.get(model, (0, None))
        if training is None:
            training = [module for module in model.modules() if module.training]
            for module in training:
                module.training = False
        _evaluated[model] = readers + 1, training
    if training and not readers:
        logger.warning_once(
            "A reward model is in training mode: it is put to eval() while it guides. Call `.eval()` on it."
        )


def _stop_evaluating(model: nn.Module) -> None:
    with _lock:
        readers, training = _evaluated.pop(model)
        if readers > 1:
            _evaluated[model] = readers - 1, training
            return
        for module in training:
            module.training = True


@lru_cache(maxsize=64)
def _guided_class(base_class: type) -> type:
    """Subclass of the base's class under the same name, which saving, type checks and `can_generate()` look at."""
    signature = inspect.signature(base_class.forward)  # type: ignore[attr-defined]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._guided_forward(*args, **kwargs)

    # generate() reads the signature to learn what the model takes
    forward.__signature__ = signature  # type: ignore[attr-defined]
    forward.__doc__ = GuidedModel._guided_forward.__doc__
    names = tuple(signature.parameters)[1:]
    fields = {
        "forward": forward,
        "_forward_names": names,
        "__module__": base_class.__module__,
        "__doc__": base_class.__doc__,
    }
    return type(base_class.__name__, (GuidedModel, base_class), fields)


def _stand_in(base: Any, guidance: Guidance, call: GuidedCall | None, like: Any = None) -> Any:
    """A shallow copy of the base that shares its modules and owns its attributes. `base` is what forward calls."""
    like = base if like is None else like
    guided: Any = object.__new__(_guided_class(type(like)))  # type: ignore[arg-type]
    fields = {key: value for key, value in like.__dict__.items() if key not in _INSTANCE_OVERRIDES}
    fields.update({hooks: OrderedDict() for hooks in _HOOKS}, _compiled_call_impl=None)
    # past nn.Module.__setattr__, which would register the base as a submodule of itself
    guided.__dict__.update(fields, _base=base, _guidance=guidance, _call=call, _joint_call=None)
    return guided


def guide(
    model: Any,
    reward_models: Any,
    alpha: Alpha | None = None,
    reward_inputs: Any = None,
    *,
    share_backbone: bool | None = None,
    tokenizer: Any = None,
    reward_tokenizers: Any = None,
) -> Any:
    """Guide a causal LM by reward models: `log pi = log pi_base + sum_i alpha_i log pi_i - log Z`.

    Args:
        model: the base, any transformers model that generates, or a PEFT model of one. It is not changed.
        reward_models: one or several of [`AutoregressiveRewardModel`], [`ImplicitRewardModel`], causal LM, PEFT model,
            hub id or directory.
        alpha: guidance strength: a number, one per reward model, a tensor `(arms,)` or `(batch, arms)`, or a callable
            `step -> alpha`, `step` being the number of tokens generated so far. Negative steers away, 0 switches off.
            None: each reward model's own `config.alpha`, else 1.0.
        reward_inputs: prompts for the reward models (another template or language): an encoding for all or one per
            reward model.
        share_backbone: run LoRA reward models on the base's own weights in one pass with it. None: where that is
            possible; True: it must be; False: separate passes.
        tokenizer: the base's tokenizer, to compare vocabularies. By default those saved beside the models are compared.
        reward_tokenizers: the reward models' tokenizers, one or a list.

    Returns:
        a guided model: of the base's class, with guided `forward`, `generate` and `token_logprobs`.

    Raises:
        TypeError: something is no causal LM, or alpha no number.
        ValueError: no reward models, an alpha that does not fit, vocabularies that disagree, a backbone that cannot be
            shared.
    """
    base = _as_base(model)
    rewards = as_rewards(reward_models, base)
    if has_adapters(base) and any(item is base for reward in rewards for item in reward.models):
        # a PEFT model put its adapter into this very base, which would reward itself: the base is what it was without
        base = without_adapters(base)
    rewards = tuple(_with_base(reward, base) for reward in rewards)
    strengths = [default_alpha(item, base) for item in as_list(reward_models)] if alpha is None else alpha
    guidance = Guidance(
        rewards=rewards,
        given_alpha=check_alpha(strengths, len(rewards)),
        given_prompts=as_reward_prompts(reward_inputs, len(rewards)),
        base=base,
        share_always=bool(share_backbone),
    )
    tokenizers = one_each(reward_tokenizers, len(rewards))
    for term in guidance.terms:
        check_vocabularies(base, term.model, term.name, tokenizer, tokenizers[term.first])
    adapters = [term.model for term in guidance.terms if _goes_with_base(base, term, share_backbone)]
    return _stand_in(base, replace(guidance, adapters=tuple(adapters)), None)


def _with_base(reward: Reward, base: Any) -> Reward:
    """A reward model that knows the base when it meets it: a reference made of the base's own tensors, say."""
    return replace(reward, models=tuple(base if is_base(base, model) else model for model in reward.models))


def _goes_with_base(base: Any, term: Term, wanted: bool | None) -> bool:
    if wanted is False or term.model is base:
        return False
    reason = why_not_shared(base, term.model)
    if reason is not None and wanted:
        raise ValueError(f"`share_backbone=True`, but {term.name} cannot go through the base's pass: {reason}.")
    if reason is not None:
        logger.info(f"{term.name} reads in passes of its own: {reason}.")
    return reason is None


def _as_base(model: Any) -> Any:
    """The transformers model inside whatever wraps it."""
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if isinstance(model, GuidedModel):
        raise TypeError("`model` is guided already: call guide() on its base, with all reward models in one list.")
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        if getattr(model.active_peft_config, "is_prompt_learning", False):
            raise TypeError(
                "`model` has a prompt-learning adapter, which lives outside the model's forward; guide a LoRA-type "
                "or merged model."
            )
        model = model.get_base_model()
    if model.__class__.__name__ == "AutoregressiveRewardModel":
        model = model.causal_lm
    if not isinstance(model, nn.Module) or not hasattr(model, "_prepare_cache_for_generation"):
        raise TypeError(f"`model` must be a transformers model that can generate, got {type(model).__name__}.")
    return model
