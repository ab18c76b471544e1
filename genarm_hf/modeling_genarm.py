"""`AutoregressiveRewardModel`: a causal LM whose token log-probabilities are rewards, as a Hugging Face model.

The class is a thin shell around a backbone, which is any causal LM or a PEFT model of one. Weights are stored
as the backbone stores them, so every loader that reads the backbone's architecture reads a reward model too.
"""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from .configuration_genarm import GenARMConfig
from .guidance import position_ids_from_mask, token_logprobs
from .model_card import write_model_card

ADAPTER_CONFIG = "adapter_config.json"
_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
_WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")


class AutoregressiveRewardModel(PreTrainedModel, GenerationMixin):
    """A causal LM read as a reward model: `r(x, y) = log pi_r(y | x) = sum_t log pi_r(y_t | x, y_<t)` (arXiv 2410.08193, eq. 5).

    Args:
        config ([`GenARMConfig`]): describes the backbone and the reward.
        backbone (`PreTrainedModel` or `PeftModel`, *optional*):
            The causal LM underneath. Without it, one with random weights is built from `config.text_config`.

    Example:

    ```python
    >>> from transformers import LlamaConfig
    >>> tiny = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
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
        self.backbone = AutoModelForCausalLM.from_config(config.text_config) if backbone is None else backbone
        self.generation_config = getattr(self.backbone, "generation_config", None)

    # ------------------------------------------------------------------ the causal LM interface, the backbone's own

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's forward; `logits` `(batch, length, vocab)` are unnormalised next-token rewards."""
        return self.backbone(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate from the reward model itself, unguided: what it likes best."""
        return self.backbone.generate(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's input embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's input embeddings."""
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The backbone's language-modelling head."""
        return self.backbone.get_output_embeddings()

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model that computes: the backbone without its PEFT wrapper (adapters stay active inside)."""
        return self.backbone.get_base_model() if hasattr(self.backbone, "peft_config") else self.backbone

    # ------------------------------------------------------------------ rewards

    def token_rewards(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, response_mask: Tensor | None = None
    ) -> Tensor:
        """Reward of every token: its log-probability given the tokens before it.

        Args:
            input_ids: `(batch, length)`, prompt and response, padded on either side.
            attention_mask: `(batch, length)`, 1 for tokens and 0 for padding. None: no padding.
            response_mask: `(batch, length)`, 1 for the tokens to be rewarded; the others get 0. None: all tokens but padding.

        Returns:
            float32 `(batch, length)` in nats. The first token of a row, which nothing predicts, has 0.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rewards = token_logprobs(_logits(self.causal_lm, input_ids, attention_mask), input_ids)
        # the first real token of a left-padded row is predicted by padding: no reward either
        predicted = torch.nn.functional.pad(mask[:, :-1], (1, 0)).bool() & mask.bool()
        keep = predicted if response_mask is None else predicted & response_mask.bool()
        return rewards.masked_fill(~keep, 0.0)

    @torch.no_grad()
    def score(
        self,
        tokenizer: Any,
        prompts: str | Sequence[str],
        responses: str | Sequence[str],
        batch_size: int = 16,
        append_eos: bool = True,
    ) -> Tensor:
        """One reward a response: the sum of its token rewards (eq. 5).

        Args:
            tokenizer: the model's tokenizer.
            prompts: prompt texts as the model was trained on, or one for all. `config.prompt_template` is applied where set.
            responses: response texts, one a prompt.
            batch_size: rows per forward.
            append_eos: whether the end of the response counts as a token, as it does in training.

        Returns:
            float32 `(responses,)` in nats, on the CPU.

        Raises:
            ValueError: there are not as many responses as prompts, or a response has no tokens.
        """
        prompts, responses = _as_pairs(prompts, responses)
        encoded = [self._encode(tokenizer, p, r, append_eos) for p, r in zip(prompts, responses, strict=True)]
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row][0]))
        scores = torch.zeros(len(encoded))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask, response_mask = _right_pad([encoded[row] for row in rows], self._device())
            scores[rows] = self.token_rewards(ids, mask, response_mask).sum(-1).cpu()
        return scores

    @torch.no_grad()
    def explain(
        self, tokenizer: Any, prompt: str, response: str, base: Any = None, append_eos: bool = True
    ) -> list[dict[str, Any]]:
        """Which tokens of a response earn its reward.

        Args:
            tokenizer: the model's tokenizer.
            prompt: prompt text.
            response: response text.
            base: a causal LM; with it, every row also says how far the reward departs from the base's own log-probability.
            append_eos: whether the end of the response is a row.

        Returns:
            a row per token: `token` (text), `id`, `reward` (nats) and, with a base, `advantage` = reward - log pi_base.
        """
        ids, start = self._encode(tokenizer, prompt, response, append_eos)
        input_ids = torch.tensor([ids], device=self._device())
        rewards = self.token_rewards(input_ids)[0].tolist()
        rows = [{"token": tokenizer.decode([i]), "id": i, "reward": r} for i, r in zip(ids, rewards, strict=True)][start:]
        if base is not None:
            base_ids = input_ids.to(base.device)
            base_logprobs = token_logprobs(_logits(base, base_ids, None), base_ids)[0].tolist()[start:]
            rows = [row | {"advantage": row["reward"] - b} for row, b in zip(rows, base_logprobs, strict=True)]
        return rows

    def _device(self) -> torch.device:
        return self.causal_lm.device

    def _encode(self, tokenizer: Any, prompt: str, response: str, append_eos: bool) -> tuple[list[int], int]:
        """Ids of prompt and response, and where the response starts."""
        if self.config.prompt_template:
            prompt = self.config.prompt_template.format(prompt=prompt)
        prompt_ids = tokenizer(prompt)["input_ids"]
        if prompt_ids and prompt_ids[-1] == tokenizer.eos_token_id:
            prompt_ids = prompt_ids[:-1]  # tokenizers that close every text: the response follows here
        response_ids = tokenizer(response, add_special_tokens=False)["input_ids"]
        if append_eos and tokenizer.eos_token_id is not None and response_ids[-1:] != [tokenizer.eos_token_id]:
            response_ids = [*response_ids, tokenizer.eos_token_id]
        if not response_ids:
            raise ValueError(f"`responses` holds a text without tokens: {response!r} to the prompt {prompt[:60]!r}.")
        return prompt_ids + response_ids, len(prompt_ids)

    # ------------------------------------------------------------------ building, loading, saving

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
        """
        inner = backbone.get_base_model() if hasattr(backbone, "peft_config") else backbone
        config = GenARMConfig(
            text_config=inner.config,
            beta=beta,
            alpha=alpha,
            objective=objective,
            prompt_template=prompt_template,
            adapter=_describe_adapter(backbone),
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

        Three kinds of repository load: a genarm repository with full weights; one with a LoRA adapter; and a plain causal
        LM or plain adapter, which is read as a reward model as it is.

        Args:
            pretrained_model_name_or_path: directory or hub id.
            *model_args: passed on to the backbone.
            base_model: for adapters, the model to attach to. Its weights are shared, not copied, and its
                own output stays what it was.
            **kwargs: as in `AutoModelForCausalLM.from_pretrained` (`dtype`, `device_map`, `revision`, ...).

        Raises:
            ValueError: nothing loadable is there (weights corrupted or in pickle format only), the adapter's base is
                missing, or `base_model` was given for a repository that is no adapter.
        """
        repo = str(pretrained_model_name_or_path)
        kwargs = {key: value for key, value in kwargs.items() if key not in ("_from_auto", "adapter_kwargs")}
        wanted_config = kwargs.pop("config", None)
        hub = {key: kwargs[key] for key in _HUB_KWARGS if kwargs.get(key) is not None}
        adapter = _read_json(repo, ADAPTER_CONFIG, hub)
        config = wanted_config or _load_config(repo, adapter, hub, kwargs.get("trust_remote_code"))
        if adapter is None:
            if base_model is not None:
                raise ValueError(f"`base_model` is for adapters, and {repo!r} has no {ADAPTER_CONFIG}. Leave it out.")
            backbone = _load_full(repo, config, model_args, kwargs)
        else:
            backbone = _load_adapter(repo, adapter, base_model, hub, model_args, kwargs)
        if not isinstance(config, PreTrainedConfig) or config.model_type != GenARMConfig.model_type:
            return cls.from_backbone(backbone).eval()
        inner = backbone.get_base_model() if adapter is not None else backbone
        config.text_config, config.dtype, config.adapter = inner.config, inner.dtype, _describe_adapter(backbone)
        config._name_or_path = repo
        return cls(config, backbone).eval()

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

        A reward model with a PEFT backbone is saved as a valid adapter repository, with `config.json` beside the adapter.

        Args:
            save_directory: created if missing. The weights are written first and `config.json` last.
            tokenizer: saved along, so that the repository is complete.
            push_to_hub: also upload; `repo_id=` names the repository (default: the directory's name).
            is_main_process: False on the other ranks of a distributed job, which write nothing.
            model_card: whether to write `README.md`.
            **kwargs: `max_shard_size`, `state_dict`, ... of the backbone's `save_pretrained`.
        """
        directory = Path(save_directory)
        if directory.is_file():
            raise ValueError(f"`save_directory` must be a directory, and {str(directory)!r} is a file.")
        upload = {key: kwargs.pop(key) for key in ("repo_id", "private", "token", "commit_message") if key in kwargs}
        self._save_backbone(directory, is_main_process, kwargs)
        if not is_main_process:
            return
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        self._save_config(directory)
        if model_card:
            write_model_card(self.config, directory)
        if push_to_hub:
            self.push_to_hub(upload.pop("repo_id", directory.name), tokenizer=tokenizer, **upload)

    def push_to_hub(self, repo_id: str, *, tokenizer: Any = None, **kwargs: Any) -> str:  # type: ignore[override]
        """Upload the reward model, its tokenizer and its card.

        Args:
            repo_id: `user/name`.
            tokenizer: uploaded along.
            **kwargs: `private`, `token`, `commit_message`, `create_pr`, `revision` of the hub's `upload_folder` and `create_repo`.

        Returns:
            address of the commit.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=kwargs.pop("token", None))
        repo_id = api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True).repo_id
        kwargs.setdefault("commit_message", "Upload autoregressive reward model")
        with TemporaryDirectory() as directory:
            self.save_pretrained(directory, tokenizer=tokenizer, model_card=False)
            write_model_card(self.config, Path(directory), repo_id=repo_id)
            return str(api.upload_folder(repo_id=repo_id, folder_path=directory, **kwargs).commit_url)

    def _save_backbone(self, directory: Path, is_main_process: bool, kwargs: dict[str, Any]) -> None:
        peft = hasattr(self.backbone, "peft_config")
        # 5.8 and PEFT's adapters write no card of ours; a saved generation config must not be lost either
        self.backbone.save_pretrained(directory, is_main_process=is_main_process, **kwargs)
        if peft and is_main_process:
            _fill_base_name(directory / ADAPTER_CONFIG, self.backbone)

    def _save_config(self, directory: Path) -> None:
        """`config.json` of the reward model, over the backbone's own that was written with its weights."""
        config = copy.deepcopy(self.config)
        config.text_config = copy.deepcopy(self.causal_lm.config)
        config.adapter = _describe_adapter(self.backbone)
        config.dtype = self.causal_lm.dtype
        config.architectures = [type(self).__name__]
        if self._auto_class is not None:
            from transformers.dynamic_module_utils import custom_object_save

            custom_object_save(self, directory, config=config)
        config.save_pretrained(directory)


def _logits(model: Any, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Logits `(batch, length, vocab)` of one stateless forward, with positions that count real tokens only."""
    kwargs: dict[str, Any] = {"use_cache": False}
    if attention_mask is not None:
        import inspect

        kwargs["attention_mask"] = attention_mask
        if "position_ids" in inspect.signature(type(model).forward).parameters:
            kwargs["position_ids"] = position_ids_from_mask(attention_mask)
    return model(input_ids, **kwargs).logits


def _as_pairs(prompts: str | Sequence[str], responses: str | Sequence[str]) -> tuple[list[str], list[str]]:
    responses = [responses] if isinstance(responses, str) else list(responses)
    prompts = [prompts] * len(responses) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(responses):
        raise ValueError(
            f"`prompts` and `responses` must have one length, got {len(prompts)} and {len(responses)}. "
            "One prompt as a string serves all responses."
        )
    return prompts, responses


def _right_pad(rows: list[tuple[list[int], int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """ids, attention mask and response mask, each `(rows, length)`, padded on the right with 0."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows], device=device)
    sizes = torch.tensor([[len(ids)] for ids, _ in rows], device=device)
    starts = torch.tensor([[start] for _, start in rows], device=device)
    positions = torch.arange(length, device=device)
    mask = (positions < sizes).long()
    return ids, mask, mask * (positions >= starts)


def _describe_adapter(backbone: Any) -> dict[str, Any] | None:
    """What `config.adapter` says of a PEFT backbone; None for a plain one."""
    if not hasattr(backbone, "peft_config"):
        return None
    peft_config = backbone.peft_config[backbone.active_adapter]
    kind = peft_config.peft_type
    return {"type": str(getattr(kind, "value", kind)), "base_model_name_or_path": _base_name(backbone)}


def _base_name(backbone: Any) -> str | None:
    configured = backbone.peft_config[backbone.active_adapter].base_model_name_or_path
    return configured or backbone.get_base_model().config._name_or_path or None


def _fill_base_name(path: Path, backbone: Any) -> None:
    """PEFT leaves the base's name empty when it was built around an object; the adapter could never be loaded again."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    if not fields.get("base_model_name_or_path"):
        fields["base_model_name_or_path"] = _base_name(backbone)
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def is_genarm_repository(repo: str, hub: dict[str, Any]) -> bool:
    """Whether a repository's `config.json` is a reward model's."""
    fields = _read_json(repo, "config.json", {key: value for key, value in hub.items() if key in _HUB_KWARGS})
    return fields is not None and fields.get("model_type") == GenARMConfig.model_type


def _read_json(repo: str, filename: str, hub: dict[str, Any]) -> dict[str, Any] | None:
    """A json file of a repository, or None where the repository does not have it."""
    path = cached_file(
        repo,
        filename,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def _load_config(repo: str, adapter: dict | None, hub: dict[str, Any], trust_remote_code: Any) -> PreTrainedConfig | None:
    """The repository's configuration; None for a plain adapter, which has none of its own."""
    fields = _read_json(repo, "config.json", hub)
    if fields is None and adapter is not None:
        return None
    if fields is not None and fields.get("model_type") == GenARMConfig.model_type:
        return GenARMConfig.from_pretrained(repo, **hub)
    return AutoConfig.from_pretrained(repo, trust_remote_code=trust_remote_code, **hub)


def _load_full(repo: str, config: Any, model_args: tuple, kwargs: dict[str, Any]) -> PreTrainedModel:
    """The backbone from full weights. Safetensors only: a pickle runs code when it is read."""
    text_config = config.text_config if config.model_type == GenARMConfig.model_type else config
    dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None)) or getattr(config, "dtype", None) or "auto"
    try:
        return AutoModelForCausalLM.from_pretrained(
            repo, *model_args, config=text_config, dtype=dtype, **(kwargs | {"use_safetensors": True})
        )
    except (OSError, RuntimeError) as error:
        raise _unreadable(repo, error) from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise _unreadable(repo, error) from error
        raise


def _unreadable(repo: str, error: Exception) -> ValueError:
    pickled = [name for name in ("pytorch_model.bin", "adapter_model.bin") if (Path(repo) / name).is_file()]
    if pickled:
        return ValueError(
            f"{repo!r} holds its weights in {pickled[0]}, a pickle file, which can run code when read. Convert it to "
            "safetensors where you trust it: load it there and call `save_pretrained`."
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ValueError(f"The weights of {repo!r} could not be read: {reason}. Download or save the repository again.")


def _load_adapter(
    repo: str,
    adapter: dict[str, Any],
    base_model: PreTrainedModel | None,
    hub: dict[str, Any],
    model_args: tuple,
    kwargs: dict[str, Any],
) -> nn.Module:
    """A PEFT model around the adapter's base, which is loaded, or shared with `base_model`."""
    from peft import PeftModel

    if base_model is None:
        base = _load_adapter_base(repo, adapter, model_args, {k: v for k, v in kwargs.items() if k not in _HUB_KWARGS})
    else:
        base = share_weights(base_model)
    if not _has_safetensors(repo, hub):
        raise _unreadable(repo, FileNotFoundError("no adapter_model.safetensors in it"))
    try:
        model = PeftModel.from_pretrained(base, repo, use_safetensors=True, **hub)
    except Exception as error:
        if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.startswith("safetensors"):
            raise _unreadable(repo, error) from error
        raise
    _restore_adapter_dtype(model, repo, hub)
    return model


def _load_adapter_base(repo: str, adapter: dict[str, Any], model_args: tuple, kwargs: dict[str, Any]) -> PreTrainedModel:
    name = adapter.get("base_model_name_or_path")
    fix = "Pass the loaded model as `base_model=`."
    if not name:
        raise ValueError(f"{repo!r} is an adapter whose {ADAPTER_CONFIG} does not name its base model. {fix}")
    kwargs.setdefault("dtype", kwargs.pop("torch_dtype", "auto"))
    try:
        return AutoModelForCausalLM.from_pretrained(name, *model_args, **kwargs)
    except OSError as error:
        raise ValueError(f"{repo!r} is an adapter of {name!r}, which could not be loaded. {fix}") from error


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A second set of modules over the same tensors.

    Adapters can then be put into the copy without touching the original: its output stays bit-identical, threads may
    use both, and no weight is held twice.

    Raises:
        ValueError: the model already has adapters inside.
    """
    if hasattr(model, "peft_config") or any(hasattr(module, "base_layer") for module in model.modules()):
        raise ValueError(
            "`base_model` already has adapters inside, and a reward adapter on top of them would mean something else. "
            "Pass the plain model (`peft_model.unload()` gives it back, `merge_and_unload()` keeps the adapter's effect)."
        )
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module.__dict__.values(), *module._parameters.values(), *module._buffers.values()):
            if isinstance(tensor, Tensor):
                memo[id(tensor)] = tensor
    return copy.deepcopy(model, memo)


def _has_safetensors(repo: str, hub: dict[str, Any]) -> bool:
    path = cached_file(repo, "adapter_model.safetensors", _raise_exceptions_for_missing_entries=False, **hub)
    return path is not None


def _restore_adapter_dtype(model: Any, repo: str, hub: dict[str, Any]) -> None:
    """PEFT loads half-precision adapters as float32; give every tensor the dtype it was saved with."""
    from safetensors import safe_open

    path = cached_file(repo, "adapter_model.safetensors", **hub)
    with safe_open(path, framework="pt") as file:
        saved = {key: file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118 - not a dict
    if len(set(saved.values())) == 1:
        dtype = next(iter(saved.values()))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(dtype)
