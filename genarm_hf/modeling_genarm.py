"""`AutoregressiveRewardModel`: a causal LM whose token log-probabilities are rewards, as a Hugging Face model.

The class is a thin shell around a backbone, which is any causal LM or a PEFT model of one. Weights are stored
as the backbone stores them, so every loader that reads the backbone's architecture reads a reward model too.
"""

import copy
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import logging

from .adapters import ADAPTER_CONFIG, active_adapter, check_backbone, convert_own, describe, save_adapter, unwrap
from .configuration_genarm import GenARMConfig, check_values
from .guidance import token_logprobs
from .loading import Repository, load_adapter, load_config, load_full, unaltered_weights
from .model_card import write_model_card
from .saving import card_kept, check_target, fetch_card, is_sharded, only_new_weights, stale_weights
from .scoring import (
    as_pairs,
    check_base,
    check_batch_size,
    check_ids,
    check_known,
    encode_pairs,
    evaluating,
    first_column,
    read_logits,
    summed_rewards,
)
from .vocabulary import vocab_size

logger = logging.get_logger(__name__)

_REWARD_FIELDS = ("beta", "alpha", "objective", "prompt_template")
_AUTO_CLASSES = ("AutoModel", "AutoModelForCausalLM")
# what a loaded backbone knows about itself, and transformers asks the outermost model
_LOADING_FACTS = (
    "is_quantized",
    "quantization_method",
    "hf_quantizer",
    "is_loaded_in_8bit",
    "is_loaded_in_4bit",
    "hf_device_map",
)
_UPLOAD_KWARGS = ("repo_id", "private", "token", "commit_message", "create_pr", "revision")


class AutoregressiveRewardModel(PreTrainedModel, GenerationMixin):
    """A causal LM read as a reward model: `r(x, y) = log pi_r(y | x) = sum_t log pi_r(y_t | x, y_<t)`.

    This is the parametrisation of arXiv 2410.08193.

    Args:
        config ([`GenARMConfig`]): describes the backbone and the reward.
        backbone (`PreTrainedModel` or `PeftModel`, *optional*):
            The causal LM underneath. Without it, one with random weights is built from `config.text_config`.

    Example:

    ```python
    >>> from transformers import LlamaConfig
    >>> tiny = LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> arm = AutoregressiveRewardModel(GenARMConfig(text_config=tiny, beta=0.1))
    >>> arm.token_rewards(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3])

    ```
    """

    config_class = GenARMConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: GenARMConfig, backbone: nn.Module | None = None) -> None:
        if backbone is None and config.text_config is None:
            raise ValueError("`config.text_config` is None: pass the backbone's configuration, or a `backbone`.")
        super().__init__(config)
        self.backbone: Any = _build(config.text_config) if backbone is None else backbone
        inner = self.causal_lm
        # one object, so that what changes there (a resized vocabulary) is known here; its origin is kept apart
        self._trained_from = getattr(config.text_config, "_name_or_path", None) or inner.config._name_or_path
        config.text_config = inner.config
        self._own_parameters: list[nn.Parameter] | None = None
        for name in _LOADING_FACTS:
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    # ------------------------------------------------------------------ the causal LM interface, the backbone's own

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's forward; `logits` `(batch, length, vocab)` are unnormalised next-token rewards."""
        return self.backbone(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate from the reward model itself, unguided: what it likes best."""
        return self.backbone.generate(*args, **kwargs)

    @property
    def generation_config(self) -> Any:
        """The backbone's defaults of generation."""
        return self.causal_lm.generation_config if "backbone" in self._modules else None

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        if "backbone" in self._modules:  # before, transformers sets a default that the backbone's own replaces
            self.causal_lm.generation_config = value

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's input embeddings."""
        return self.causal_lm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's input embeddings."""
        self.causal_lm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The backbone's language-modelling head."""
        return self.causal_lm.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's language-modelling head."""
        self.causal_lm.set_output_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the backbone's vocabulary."""
        return self.causal_lm.resize_token_embeddings(*args, **kwargs)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie the backbone's embeddings where its configuration says so."""
        self.causal_lm.tie_weights(*args, **kwargs)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model that computes: the backbone without its PEFT wrapper (adapters stay active inside)."""
        return unwrap(self.backbone)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """What `to()`, `half()`, `cuda()` come down to: shared weights are their base model's to move and cast."""
        if self._own_parameters is None:
            return super()._apply(fn, recurse)
        convert_own(self._own_parameters, fn, self.causal_lm)
        return self

    # ------------------------------------------------------------------ rewards

    def token_rewards(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, response_mask: Tensor | None = None
    ) -> Tensor:
        """Reward of every token: its log-probability given the tokens before it.

        Args:
            input_ids: `(batch, length)`, prompt and response, padded on either side.
            attention_mask: `(batch, length)`, 1 for tokens and 0 for padding. None: no padding.
            response_mask: `(batch, length)`, 1 for the tokens to be rewarded; the others get 0. None: all tokens but
                padding.

        Returns:
            float32 `(batch, length)` in nats. The first token of a row, which nothing predicts, has 0.

        Raises:
            TypeError: something is no tensor of its kind.
            ValueError: a mask has another shape than `input_ids`, or these hold ids that the model lacks.
        """
        check_ids(input_ids, attention_mask=attention_mask, response_mask=response_mask)
        check_known(input_ids, vocab_size(self.causal_lm))
        input_ids = input_ids.to(self._input_device)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids.device)
        # the first real token of a left-padded row is predicted by padding: no reward either
        keep = nn.functional.pad(mask[:, :-1], (1, 0)).bool() & mask.bool()
        if response_mask is not None:
            keep &= response_mask.to(input_ids.device).bool()
        start = first_column(keep) if response_mask is not None else 1
        logits = read_logits(
            self.causal_lm, input_ids, None if attention_mask is None else mask, input_ids.shape[1] - start + 1
        )
        rewards = token_logprobs(logits, input_ids[:, -logits.shape[1] :].to(logits.device)).to(input_ids.device)
        return nn.functional.pad(rewards, (input_ids.shape[1] - rewards.shape[1], 0)).masked_fill(~keep, 0.0)

    @torch.no_grad()
    def score(
        self,
        tokenizer: Any,
        prompts: str | Sequence[str],
        responses: str | Sequence[str],
        batch_size: int = 16,
        append_eos: bool = True,
    ) -> Tensor:
        """One reward a response: the sum of its token rewards.

        Args:
            tokenizer: the model's tokenizer.
            prompts: prompt texts as the model was trained on, or one for all. `config.prompt_template` is applied
                where set.
            responses: response texts, one a prompt.
            batch_size: rows per forward.
            append_eos: whether the end of the response counts as a token, as it does in training.

        Returns:
            float32 `(responses,)` in nats, on the CPU.

        Raises:
            ValueError: there are not as many responses as prompts, a text has no tokens, or does not fit the model.
        """
        check_batch_size(batch_size)
        prompts, responses = as_pairs(prompts, responses)
        encoded = self._encode(tokenizer, prompts, responses, append_eos)
        with evaluating(self):
            return summed_rewards(self.token_rewards, encoded, self._input_device, batch_size)

    @torch.no_grad()
    def explain(
        self, tokenizer: Any, prompt: str, response: str, base: Any = None, append_eos: bool = True
    ) -> list[dict[str, Any]]:
        """Which tokens of a response earn its reward. The rewards add up to what [`score`] gives.

        Args:
            tokenizer: the model's tokenizer.
            prompt: prompt text.
            response: response text.
            base: a causal LM; with it, every row also says how far the reward departs from the base's own
                log-probability.
            append_eos: whether the end of the response is a row.

        Returns:
            a row per token: `token` (text), `id`, `reward` (nats) and, with a base, `advantage` = reward - log pi_base.

        Raises:
            TypeError: `base` is no causal LM, or something is no text.
            ValueError: a text has no tokens, does not fit the model, or has ids that `base` lacks.
        """
        ((ids, start),) = self._encode(tokenizer, *as_pairs([prompt], [response]), append_eos)
        if base is not None:
            check_base(base, ids)
        input_ids = torch.tensor([ids], device=self._input_device)
        with evaluating(self):
            rewards = self.token_rewards(input_ids)[0].tolist()
        rows = [{"token": tokenizer.decode([i]), "id": i, "reward": r} for i, r in zip(ids, rewards, strict=True)][
            start:
        ]
        if base is not None:
            # a base is read as this class reads itself, whatever wraps it
            with evaluating(base):
                ids_there = input_ids.to(base.device)
                logprobs = token_logprobs(read_logits(base, ids_there, None, len(ids)), ids_there)[0].tolist()[start:]
            rows = [row | {"advantage": row["reward"] - logprob} for row, logprob in zip(rows, logprobs, strict=True)]
        return rows

    @property
    def _input_device(self) -> torch.device:
        """Where ids go: to the embeddings, or to where accelerate runs them while their weights are elsewhere."""
        embeddings: Any = self.get_input_embeddings()
        device = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
        return embeddings.weight.device if device is None else torch.device(device)

    def _encode(
        self, tokenizer: Any, prompts: list[str], responses: list[str], append_eos: bool
    ) -> list[tuple[list[int], int]]:
        encoded = encode_pairs(tokenizer, prompts, responses, self.config.prompt_template, append_eos)
        self._check_encoded(encoded)
        return encoded

    def _check_encoded(self, encoded: Sequence[tuple[list[int], int]]) -> None:
        """Refuse texts without a prompt, longer than this model's positions, or with ids that it lacks."""
        config = self.causal_lm.config.get_text_config(decoder=True)
        limit = getattr(config, "max_position_embeddings", None)
        embeddings: Any = self.get_input_embeddings()
        for index, (ids, start) in enumerate(encoded):
            if not start:
                raise ValueError(f"`prompts[{index}]` has no tokens, so nothing predicts the response's first one.")
            if limit is not None and len(ids) > limit:
                raise ValueError(
                    f"`prompts[{index}]` and its response have {len(ids)} tokens, and the reward model reads at most "
                    f"{limit} (config.max_position_embeddings). Shorten the prompt."
                )
            if max(ids) >= embeddings.weight.shape[0]:
                raise ValueError(
                    f"`tokenizer` gives id {max(ids)}, which the reward model does not have. Pass the reward model's "
                    "own tokenizer."
                )

    # ------------------------------------------------------------------ building and loading

    @classmethod
    def from_backbone(
        cls,
        backbone: nn.Module,
        *,
        beta: float | None = None,
        alpha: float | None = None,
        objective: str | None = None,
        prompt_template: str | None = None,
    ) -> "AutoregressiveRewardModel":
        """Read a causal LM, or a PEFT model of one, as a reward model.

        Args:
            backbone: a `PreTrainedModel` with a language-modelling head, or a `PeftModel` around one.
            beta: see [`GenARMConfig`], as the others.
            alpha: default guidance strength.
            objective: what the reward measures.
            prompt_template: format string with `{prompt}`.

        Raises:
            TypeError: the backbone is no causal LM, or one with a prompt-learning adapter.
        """
        check_backbone(backbone)
        inner = unwrap(backbone)
        config = GenARMConfig(
            text_config=inner.config,
            beta=beta,
            alpha=alpha,
            objective=objective,
            prompt_template=prompt_template,
            adapter=describe(backbone),
            dtype=inner.dtype,
        )
        config._name_or_path = inner.config._name_or_path
        return cls(config, backbone)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        base_model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> "AutoregressiveRewardModel":
        """Load a reward model from a directory or the hub.

        Three kinds of repository load: a genarm repository with full weights; one with a LoRA adapter; and a plain
        causal LM or plain adapter, which is read as a reward model as it is.

        Args:
            pretrained_model_name_or_path: directory or hub id.
            *model_args: passed on to the backbone.
            base_model: for adapters, the model to attach to. Its weights are shared, not copied, and its
                own output stays what it was.
            **kwargs: as in `AutoModelForCausalLM.from_pretrained` (`dtype`, `device_map`, `revision`, ...); `beta`,
                `alpha`, `objective`, `prompt_template` to replace what `config.json` says; for adapters,
                `is_trainable`.

        Raises:
            TypeError: the repository holds something else than a causal LM, such as a classifier.
            ValueError: nothing loadable is there (weights corrupted or in pickle format only), the adapter's base is
                missing, or `base_model` was given for a repository that is no adapter, or does not fit it.
        """
        kwargs = {
            key: value
            for key, value in kwargs.items()
            if key not in ("_from_auto", "adapter_kwargs", "output_loading_info")
        }
        replaced = {name: kwargs.pop(name) for name in _REWARD_FIELDS if name in kwargs}
        check_values(*(replaced.get(name) for name in ("beta", "alpha", "prompt_template")))
        repo = Repository.open(pretrained_model_name_or_path, kwargs)
        adapter = repo.json(ADAPTER_CONFIG)
        if adapter is None and base_model is not None:
            raise ValueError(f"`base_model` is for adapters, and {repo.name!r} has no {ADAPTER_CONFIG}. Leave it out.")
        config = load_config(repo, kwargs.pop("config", None), adapter, kwargs.get("trust_remote_code"))
        with unaltered_weights(repo):
            if adapter is None:
                backbone = load_full(repo, config, model_args, kwargs)
            else:
                backbone = load_adapter(repo, adapter, config, base_model, model_args, kwargs)
        arm = cls._around(backbone, config, repo.name, replaced)
        if base_model is not None:
            shared = {id(tensor) for tensor in base_model.parameters()}
            arm._own_parameters = [parameter for parameter in arm.parameters() if id(parameter) not in shared]
        return arm.eval()

    @classmethod
    def _around(cls, backbone: Any, config: Any, name: str, replaced: dict[str, Any]) -> "AutoregressiveRewardModel":
        """The reward model around a loaded backbone."""
        if config is None or config.model_type != GenARMConfig.model_type:
            return cls.from_backbone(backbone, **replaced)
        for key, value in replaced.items():
            setattr(config, key, value)
        if config.text_config is None:
            config.text_config = unwrap(backbone).config
        config.dtype, config.adapter, config._name_or_path = unwrap(backbone).dtype, describe(backbone), name
        return cls(config, backbone)

    # ------------------------------------------------------------------ saving

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Save the code along from now on: repositories then load with `trust_remote_code=True` alone."""
        super().register_for_auto_class(auto_class)
        cls.config_class.register_for_auto_class()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *,
        tokenizer: Any = None,
        push_to_hub: bool = False,
        is_main_process: bool = True,
        model_card: bool = True,
        **kwargs: Any,
    ) -> None:
        """Save weights (safetensors), configuration, tokenizer and a model card.

        A reward model with a PEFT backbone is saved as a valid adapter repository, with `config.json` beside the
        adapter.

        Args:
            save_directory: created if missing. The weights are written first and `config.json` last.
            tokenizer: saved along, so that the repository is complete.
            push_to_hub: also upload; `repo_id=` names the repository (default: the directory's name).
            is_main_process: False on the other ranks of a distributed job, which write nothing.
            model_card: whether to write `README.md`. Text that people wrote there stays.
            **kwargs: `max_shard_size`, `state_dict`, ... of the backbone's `save_pretrained`.

        Raises:
            ValueError: the directory is a file, or holds another model's weights that would be taken for this one's;
                or a pickle is asked for.
        """
        directory = Path(save_directory)
        upload = {key: kwargs.pop(key) for key in _UPLOAD_KWARGS if key in kwargs}
        check_target(directory, kwargs)
        stale = stale_weights(directory, is_adapter=active_adapter(self.backbone) is not None)
        if not is_main_process and not is_sharded(self):
            return
        with card_kept(directory):
            self._save_backbone(directory, is_main_process, kwargs)
        if not is_main_process:
            return
        for file in stale:
            file.unlink()
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        config = self._save_config(directory)
        if model_card:
            write_model_card(config, directory)
        if push_to_hub:
            self.push_to_hub(upload.pop("repo_id", directory.name), tokenizer=tokenizer, **upload)

    def push_to_hub(self, repo_id: str, *, tokenizer: Any = None, **kwargs: Any) -> str:  # type: ignore[override]
        """Upload the reward model, its tokenizer and its card.

        Args:
            repo_id: `user/name`. Created if missing; text that people wrote into its card stays.
            tokenizer: uploaded along.
            **kwargs: `private`, `token`, `commit_message`, `create_pr`, `revision` of the hub's `create_repo` and
                `upload_folder`; `max_shard_size` of the saving.

        Returns:
            address of the commit.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=kwargs.pop("token", None))
        repo_id = api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True).repo_id
        saving = {key: kwargs.pop(key) for key in ("max_shard_size", "state_dict") if key in kwargs}
        kwargs.setdefault("commit_message", "Upload autoregressive reward model")
        with TemporaryDirectory() as directory:
            fetch_card(api, repo_id, kwargs.get("revision"), Path(directory))
            self.save_pretrained(directory, tokenizer=tokenizer, model_card=False, **saving)
            write_model_card(self._config_to_save(), Path(directory), repo_id=repo_id)
            return str(api.upload_folder(repo_id=repo_id, folder_path=directory, **kwargs).commit_url)

    def _save_backbone(self, directory: Path, is_main_process: bool, kwargs: dict[str, Any]) -> None:
        if kwargs.get("state_dict") is not None:
            # a trainer gathers the state of the whole; files hold the backbone's
            prefix = f"{self.base_model_prefix}."
            kwargs["state_dict"] = {key.removeprefix(prefix): value for key, value in kwargs["state_dict"].items()}
        if active_adapter(self.backbone) is None:
            with only_new_weights(directory) if is_main_process else nullcontext():
                self.backbone.save_pretrained(directory, is_main_process=is_main_process, **kwargs)
            return
        save_adapter(self.backbone, directory, is_main_process=is_main_process, **kwargs)
        if is_main_process and self.generation_config is not None:
            self.generation_config.save_pretrained(directory)

    def _config_to_save(self) -> GenARMConfig:
        config = copy.deepcopy(self.config)
        config.text_config = copy.deepcopy(self.causal_lm.config)
        config.text_config._name_or_path = self._trained_from
        config.adapter = describe(self.backbone)
        config.dtype = self.causal_lm.dtype
        config.architectures = [type(self).__name__]
        # code is saved along or it is not: what the repository it was loaded from did says nothing of this one
        config.__dict__.pop("auto_map", None)
        if self._auto_class is not None:
            module = type(self).__module__.rpartition(".")[2]
            config.auto_map = {name: f"{module}.{type(self).__name__}" for name in {*_AUTO_CLASSES, self._auto_class}}
        return config

    def _save_config(self, directory: Path) -> GenARMConfig:
        """`config.json` of the reward model, over the backbone's own that was written with its weights."""
        config = self._config_to_save()
        if self._auto_class is not None:
            from transformers.dynamic_module_utils import custom_object_save

            custom_object_save(self, directory)
        config.save_pretrained(directory)
        if config.adapter is not None and not config.adapter["base_model_name_or_path"]:
            logger.warning(
                f"The adapter saved in {str(directory)!r} does not know the name of its base model: it can be loaded "
                "with `base_model=` only. Set `backbone.peft_config[name].base_model_name_or_path` before saving."
            )
        return config


def _build(text_config: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(text_config)
