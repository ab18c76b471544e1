"""Models without their weights: built on torch's `meta` device from configuration and file headers.

They have every module and every shape and take no memory, so the checks that loading and `generate()` make run on them
as they are.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .loading import load_tokenizer, same_model
from .parsing import UsageError


@dataclass
class Outline:
    """One model.

    Attributes:
        name: folder or hub name.
        model: causal LM on the meta device; of an adapter, with the adapter inside.
        config: as a reward model; None for a base, a plain causal LM and a plain adapter.
        adapter_of: of an adapter, its base; None for full weights.
        stored: how many bytes of it are in files, by dtype as safetensors names it.
        own_copy: of an adapter, whether its base is another model than the one to be guided, and loaded beside it.
        tokenizer: the tokenizer, if there is one.
        replaces: of an adapter, tensors of its base that its file has too, as it does for resized embeddings.
    """

    name: str
    model: Any
    config: Any
    adapter_of: str | None
    stored: dict[str, int]
    own_copy: bool
    tokenizer: Any
    replaces: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Bytes of weights in memory: those of the files, or of the configuration where no header was at hand."""
        return sum(self.stored.values()) or sum(parameter.nbytes for parameter in self.model.parameters())

    @property
    def parameters(self) -> int:
        """How many weights a forward reads."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def positions(self) -> int | None:
        """Tokens that it was made for; None where there is no such number."""
        return getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)

    def cache_size(self, rows: int, length: int) -> int | None:
        """Bytes of keys and values, found by a forward without numbers; None where that is not possible.

        Args:
            rows: texts side by side.
            length: tokens of each.
        """
        import torch

        try:
            ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
            with torch.no_grad():
                cache = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        except Exception:  # whatever an unusual architecture does that takes numbers
            return None
        states = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
        return sum(state.nbytes for state in states if isinstance(state, torch.Tensor))


def open_base(name: str) -> Outline:
    """The model to be guided.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no base.
    """
    from transformers import AutoConfig

    from ..adapters import ADAPTER_CONFIG
    from ..loading import Repository, whole_downloads

    repo = Repository.open(name, {})
    if repo.path(ADAPTER_CONFIG) is not None:
        raise ValueError(f"{name!r} is an adapter. Merge it into its base (`merge_and_unload`), and name the result.")
    with whole_downloads(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if config.model_type == "genarm":
        raise ValueError(f"{name!r} is a reward model. Name the model that shall be guided.")
    return Outline(name, _empty(config), None, None, _stored(repo, "model"), False, _tokenizer(name))


def open_reward_model(name: str, base: Outline | None) -> Outline:
    """A reward model: full weights, an adapter, or a plain causal LM.

    Args:
        name: folder or hub name.
        base: the model to be guided, whose weights an adapter of it shares; None where it could not be opened.

    Raises:
        OSError: it cannot be read.
        TypeError: it is no causal LM.
        ValueError: files are broken, or do not belong together.
    """
    from ..adapters import ADAPTER_CONFIG, check_adapter
    from ..configuration_genarm import GenARMConfig
    from ..loading import Repository, load_config

    repo = Repository.open(name, {})
    fields = repo.json(ADAPTER_CONFIG)
    if fields is not None:
        check_adapter(fields, name)
    config: Any = load_config(repo, None, fields, False)
    genarm = config if isinstance(config, GenARMConfig) else None
    if fields is not None:
        return _open_adapter(repo, fields, genarm, base)
    inner: Any = config if genarm is None else genarm.text_config
    inner._name_or_path = name
    return Outline(name, _empty(inner), genarm, None, _stored(repo, "model"), False, _tokenizer(name))


def _open_adapter(repo: Any, fields: dict[str, Any], genarm: Any, base: Outline | None) -> Outline:
    from ..adapters import ADAPTER_WEIGHTS, base_tensors, share_weights

    name = fields.get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{repo.name!r} is an adapter whose adapter_config.json does not name its base model.")
    on_base = base is not None and same_model(name, base.name)
    try:
        own = base if base is not None and on_base else open_base(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{repo.name!r} is an adapter of {name!r}, which cannot be opened: {error}") from error
    weights = repo.require(ADAPTER_WEIGHTS)
    stored = _stored(repo, "adapter")
    if not on_base:
        stored = dict(Counter(stored) + Counter(own.stored))
    replaces = base_tensors(weights.parent, own.model)
    model = _attach(share_weights(own.model, private=replaces), weights, repo.name, replaces)
    return Outline(repo.name, model, genarm, name, stored, not on_base, own.tokenizer, replaces)


def _empty(config: Any) -> Any:
    """A causal LM (or encoder-decoder) of this configuration without weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=False).eval()
    model.config.pad_token_id = None  # who looks for padding in ids asks for numbers
    return model


def _attach(base: Any, weights: Path, name: str, replaces: frozenset[str]) -> Any:
    """The base with an adapter's modules inside, each of the shape and dtype that its file has.

    Args:
        base: changed in place.
        weights: the adapter's file.
        name: what errors call the adapter.
        replaces: tensors in the file that are the base's, and not looked at.

    Raises:
        ValueError: the file's tensors are not those that the adapter has on this base.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    from ..adapters import saved_dtypes

    config: Any = PeftConfig.from_pretrained(str(weights.parent))
    config.inference_mode, config.init_lora_weights = True, False
    model: Any = PeftModel(base, config)
    with safe_open(weights, framework="pt") as file:
        saved = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    needed = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    keys = {key for key in saved.keys() | needed.keys() if key.removeprefix("base_model.model.") not in replaces}
    wrong = sorted(key for key in keys if saved.get(key) != needed.get(key))
    if wrong:
        raise ValueError(
            f"The adapter {name!r} does not fit its base: {len(wrong)} tensors are of other shapes, missing or left "
            f"over, {wrong[0]!r} first ({saved.get(wrong[0])} saved, {needed.get(wrong[0])} needed)."
        )
    own = {key.replace(".default", ""): parameter for key, parameter in model.named_parameters()}
    for key, (_, dtype) in saved_dtypes([weights]).items():
        if key in own and dtype.is_floating_point:
            own[key].data = own[key].data.to(dtype)
    return model.get_base_model()


# ---------------------------------------------------------------------- what is in files


def _stored(repo: Any, kind: str) -> dict[str, int]:
    """Bytes by dtype of a repository's safetensors, from their headers; empty where nobody can be asked.

    Args:
        repo: the repository.
        kind: how the files' names begin, `model` or `adapter`.

    Raises:
        ValueError: it has no safetensors, or a file is cut off.
    """
    from ..adapters import saved_dtypes
    from ..loading import unreadable

    if not repo.is_local and kind == "model":
        return _stored_on_hub(repo)
    files = (
        sorted(Path(repo.name).glob(f"{kind}*.safetensors"))
        if repo.is_local
        else [repo.path(f"{kind}_model.safetensors")]
    )
    if not files:
        raise unreadable(repo, FileNotFoundError(f"there is no {kind}.safetensors"))
    try:
        saved_dtypes(files)  # notices files that are cut off
    except Exception as error:
        raise unreadable(repo, error) from error
    return _header_sizes(files)


def _header_sizes(files: Sequence[Path]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for key, tensor in header.items():
            if key != "__metadata__":
                sizes[tensor["dtype"]] += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    return dict(sizes)


def _stored_on_hub(repo: Any) -> dict[str, int]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError

    from ..loading import unreadable

    try:
        found = HfApi().get_safetensors_metadata(repo.name, revision=repo.hub.get("revision"))
    except NotASafetensorsRepoError as error:
        raise unreadable(repo, error) from error
    except Exception:  # offline: sizes are then told from the configuration
        return {}
    sizes: Counter[str] = Counter()
    for file in found.files_metadata.values():
        for tensor in file.tensors.values():
            sizes[tensor.dtype] += tensor.data_offsets[1] - tensor.data_offsets[0]
    return dict(sizes)


def _tokenizer(name: str) -> Any:
    try:
        return load_tokenizer("--model", name)
    except UsageError:
        return None
