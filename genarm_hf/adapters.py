"""Adapters inside a reward model: attached to a base without copying or touching it, saved and loaded exactly.

An adapter sits in a PEFT model, or in a transformers model that loaded it itself (`add_adapter`, or the Auto classes
on an adapter repository). Everything that differs between the two, and everything that imports PEFT, is here.
"""

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


# ---------------------------------------------------------------------- what is inside


def unwrap(backbone: Any) -> Any:
    """The transformers model that computes: without PEFT's wrapper, with the adapters inside it active."""
    return backbone.get_base_model() if _is_peft_model(backbone) else backbone


def active_adapter(backbone: Any) -> tuple[str, Any] | None:
    """Name and PEFT configuration of the adapter in a backbone; None for a plain model.

    Raises:
        ValueError: several adapters are active at once.
    """
    if not _is_peft_model(backbone) and not getattr(backbone, "_hf_peft_config_loaded", False):
        return None
    active = backbone.active_adapters
    names = list(active() if callable(active) else active)
    if len(names) != 1:
        raise ValueError(
            f"The backbone has {len(names)} active adapters ({names}), and a reward model is one. Activate one with "
            "`set_adapter(name)`, or merge them with `add_weighted_adapter`."
        )
    return names[0], backbone.peft_config[names[0]]


def describe(backbone: Any) -> dict[str, Any] | None:
    """What `config.adapter` says of a backbone: type and base of its adapter; None for a plain model."""
    found = active_adapter(backbone)
    if found is None:
        return None
    kind = found[1].peft_type
    return {"type": str(getattr(kind, "value", kind)), "base_model_name_or_path": _base_name(backbone, found[1])}


def check_backbone(backbone: Any) -> None:
    """Refuse what is no causal LM, or hides its adapter.

    Raises:
        TypeError: as said; the message names what it is and what is needed.
    """
    kind = type(unwrap(backbone)).__name__
    needed = (
        "A reward model gives every next token a reward: it must be a causal LM (a `PreTrainedModel` with a head, or "
        "a `PeftModel` of one)."
    )
    inner = unwrap(backbone)
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(f"`backbone` is a {kind}, not a transformers model. {needed}")
    if inner.config.model_type == "genarm":
        raise TypeError("`backbone` is a reward model already. Pass its `.backbone`.")
    if inner.config.is_encoder_decoder or "Classification" in kind or not inner.can_generate():
        raise TypeError(f"`backbone` is a {kind}, not a causal LM. {needed}")
    found = active_adapter(backbone)
    if found is not None and getattr(found[1], "is_prompt_learning", False):
        raise TypeError(
            "`backbone` has a prompt-learning adapter, which acts outside the model's forward. Train a LoRA adapter "
            "instead."
        )
    if found is None and any(hasattr(module, "base_layer") for module in inner.modules()):
        raise TypeError(
            "`backbone` is a model with PEFT layers inside but without its PEFT wrapper. Pass the `PeftModel` itself."
        )


@contextmanager
def adapter_disabled(backbone: Any) -> Iterator[None]:
    """The backbone without its adapter, for as long as this lasts. No `requires_grad` is another afterwards.

    Args:
        backbone: a PEFT model, or a transformers model that loaded the adapter itself.
    """
    # not `PeftModel.disable_adapter`, which takes stock of the whole model every time
    wrapped = _is_peft_model(backbone)
    with requires_grad_kept(backbone):
        backbone.base_model.disable_adapter_layers() if wrapped else backbone.disable_adapters()
        try:
            yield
        finally:
            backbone.base_model.enable_adapter_layers() if wrapped else backbone.enable_adapters()


def trained_base_parameters(backbone: Any) -> list[str]:
    """Names of the parameters that are trained and act without the adapter too, such as the biases of `bias="all"`."""
    trained = [(name, parameter) for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Careful, disabling adapter layers with bias")
        with adapter_disabled(backbone):  # which freezes what belongs to the adapter
            return [name for name, parameter in trained if parameter.requires_grad]


def _is_peft_model(model: Any) -> bool:
    return hasattr(model, "get_base_model") and hasattr(model, "peft_config")


def _base_name(backbone: Any, config: Any) -> str | None:
    return config.base_model_name_or_path or unwrap(backbone).config._name_or_path or None


# ---------------------------------------------------------------------- sharing a base's weights


# older PEFT leaves its configuration behind in a model it has unloaded; generate() keeps a compiled forward on the
# model, which on a copy would still be that of the original
_NOT_SHARED = ("peft_config", "_compiled_call", "_last_compile_config")


def share_weights(model: PreTrainedModel, private: frozenset[str] = frozenset()) -> PreTrainedModel:
    """A second set of modules over the same tensors.

    Adapters can then be put into the copy without touching the original: its output stays bit-identical, threads may
    use both, and no weight is held twice.

    Args:
        model: a transformers model that [`shareable`] let pass.
        private: names of parameters to copy instead, because an adapter file will overwrite them.
    """
    own = {id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False) if name in private}
    # what deepcopy finds in its memo it does not copy
    memo = {id(tensor): tensor for module in model.modules() for tensor in _tensors(module) if id(tensor) not in own}
    shared = copy.deepcopy(model, memo)
    for name in _NOT_SHARED:
        shared.__dict__.pop(name, None)
    return shared


_bare: "WeakKeyDictionary[Any, Any]" = WeakKeyDictionary()


def has_adapters(model: Any) -> bool:
    """Whether PEFT has put adapter layers into a model."""
    return any(hasattr(module, "base_layer") for module in model.modules())


def without_adapters(model: Any) -> Any:
    """The model as it was before PEFT put adapters into it: other modules, the same tensors. Made once for a model.

    Args:
        model: a transformers model with adapter layers inside.

    Raises:
        ValueError: the adapter is merged into the model's own tensors.
    """
    merged = next((name for name, module in model.named_modules() if getattr(module, "merged", False)), None)
    if merged is not None:
        raise ValueError(f"The adapter is merged into {merged!r}: call `unmerge_adapter()` first.")
    if model not in _bare:
        bare = share_weights(model)
        for name, module in list(bare.named_modules()):
            if hasattr(module, "base_layer"):
                bare.set_submodule(name, module.base_layer)
            elif hasattr(module, "original_module"):  # `modules_to_save`, trained whole, in a wrapper
                bare.set_submodule(name, module.original_module)
        bare._hf_peft_config_loaded = False
        _bare[model] = bare
    return _bare[model]


def with_adapters(bare: Any) -> Any:
    """What [`without_adapters`] made this of; any other model is itself."""
    return next((model for model, made in _bare.items() if made is bare), bare)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that a module itself holds: parameters, buffers, plain attributes, and those of a quantisation state."""
    attributes = [vars(value).values() for value in vars(module).values() if hasattr(value, "__dict__")]
    for values in (vars(module).values(), module._parameters.values(), module._buffers.values(), *attributes):
        yield from (value for value in values if isinstance(value, Tensor))


def shareable(model: Any) -> PreTrainedModel:
    """The plain transformers model whose weights a reward model is to share.

    Raises:
        TypeError: it is no transformers model.
        ValueError: it already has adapters inside, or its weights are offloaded.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if _is_peft_model(model) or (
        isinstance(model, nn.Module) and any(hasattr(module, "base_layer") for module in model.modules())
    ):
        raise ValueError(
            "`base_model` already has adapters inside, and a reward adapter on top of them would mean something else. "
            "Pass the plain model (`peft_model.unload()` gives it back, `merge_and_unload()` keeps the adapter's "
            "effect)."
        )
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"`base_model` must be a loaded transformers model, got {type(model).__name__}.")
    if any(tensor.is_meta for tensor in model.parameters()):
        raise ValueError(
            "`base_model` is offloaded: some of its weights are moved in from CPU or disk while it runs, and cannot "
            "be shared. Load it without offloading, or leave `base_model` out to load the adapter's base a second "
            "time."
        )
    return model


# ---------------------------------------------------------------------- loading


def check_adapter(fields: dict[str, Any], repo: str) -> None:
    """Refuse kinds of adapters whose effect lies outside the model's forward, from their configuration alone.

    Raises:
        TypeError: it is a prompt-learning adapter.
        ValueError: it does not say what it is.
    """
    kind = fields.get("peft_type")
    if not isinstance(kind, str):
        raise ValueError(f"{ADAPTER_CONFIG} of {repo!r} must name a kind of adapter as `peft_type`, got {kind!r}.")
    if kind in ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE"):
        raise TypeError(
            f"{repo!r} is a {kind} adapter, which acts through extra prompt tokens outside the model's forward, and is "
            "not supported. Train a LoRA adapter instead."
        )


def attach(base: PreTrainedModel, directory: Path, repo: str, is_trainable: bool = False) -> Any:
    """A PEFT model around `base` with a saved adapter, every tensor of which has found its place.

    Args:
        base: model to put the adapter into; changed in place.
        directory: where `adapter_config.json` and `adapter_model.safetensors` lie.
        repo: what errors call the adapter.
        is_trainable: whether the adapter's weights are to be trained further.

    Raises:
        ImportError: the adapter needs a package that is not installed.
        ValueError: the adapter was made for a model of another shape, or the base is offloaded.
    """
    from peft import PeftConfig, PeftModel
    from peft.mapping_func import MODEL_TYPE_TO_PEFT_MODEL_MAPPING

    if any(tensor.is_meta for tensor in base.parameters()):
        raise ValueError(
            f"The adapter {repo!r} cannot be put into its base, which is offloaded to CPU or disk. Load it without "
            "offloading (another `device_map`, or a smaller dtype)."
        )
    try:
        config: Any = PeftConfig.from_pretrained(str(directory))
    except Exception as error:  # PEFT reads whatever is there as its own
        raise ValueError(f"{ADAPTER_CONFIG} of {repo!r} cannot be used: {_first_detail(error)}.") from error
    config.inference_mode = not is_trainable
    with _placed(base), warnings.catch_warnings():
        # what PEFT asks transformers was renamed there; nobody who loads can do anything about it
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        try:
            model = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)(base, config)
            result = model.load_adapter(str(directory), "default", is_trainable=is_trainable)
        except (OSError, MemoryError, torch.OutOfMemoryError):
            raise
        except ImportError as error:
            raise ImportError(
                f"{ADAPTER_CONFIG} of {repo!r} asks for a package that is not installed: {_first_detail(error)}."
            ) from error
        except Exception as error:  # PEFT checks little of what its files say before it uses it
            raise _misfit(repo, config, base, _first_detail(error)) from error
    if result.missing_keys or result.unexpected_keys:
        lost, found = len(result.unexpected_keys), len(result.missing_keys)
        raise _misfit(repo, config, base, f"{lost} of its tensors have no place there, {found} places stay empty")
    restore_dtypes(_adapter_parameters(model), [directory / ADAPTER_WEIGHTS])
    return model


def base_tensors(directory: Path, base: nn.Module) -> frozenset[str]:
    """Parameters of the base itself that an adapter file brings along, as it does for resized embeddings."""
    names = {name for name, _ in base.named_parameters(remove_duplicate=False)}
    keys = (
        key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        for key in saved_dtypes([directory / ADAPTER_WEIGHTS])
    )
    return frozenset(names.intersection(keys))


@contextmanager
def requires_grad_kept(model: nn.Module) -> Iterator[None]:
    """PEFT freezes the parameters of what it wraps; shared ones get their flags back."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _placed(base: Any) -> Iterator[None]:
    """Hide where accelerate placed the base: PEFT would spread it over all devices, however it was asked to lie."""
    device_map = base.__dict__.pop("hf_device_map", None)
    try:
        yield
    finally:
        if device_map is not None:
            base.hf_device_map = device_map


def _misfit(repo: str, config: Any, base: Any, detail: str) -> ValueError:
    name = config.base_model_name_or_path or "a base it does not name"
    return ValueError(
        f"The adapter {repo!r} was made for {name!r} and does not fit the given {type(base).__name__} "
        f"({base.config._name_or_path or 'unnamed'}): {detail}. Attach it to its own base."
    )


def _first_detail(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    details = [line for line in lines if line.startswith("size mismatch")] or lines or [type(error).__name__]
    speaks = isinstance(error, (ImportError, RuntimeError, TypeError, ValueError)) or not lines
    return details[0].rstrip(".") if speaks else f"{type(error).__name__} {details[0]}"


def _adapter_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The adapter's parameters by the names they have in its file."""
    from peft import get_peft_model_state_dict

    by_address = {parameter.data_ptr(): parameter for parameter in model.parameters() if parameter.numel()}
    named = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {key: by_address[tensor.data_ptr()] for key, tensor in named.items() if tensor.data_ptr() in by_address}


# ---------------------------------------------------------------------- saving


def save_adapter(backbone: Any, directory: Path, **kwargs: Any) -> None:
    """Save the active adapter as a PEFT repository, with its base's name filled in.

    Args:
        backbone: a PEFT model, or a transformers model that loaded the adapter itself.
        directory: the repository.
        **kwargs: of the backbone's `save_pretrained`.
    """
    found = active_adapter(backbone)
    assert found is not None, "a plain model has no adapter to save"
    name, config = found
    if _is_peft_model(backbone):
        kwargs["selected_adapters"] = [name]
    with warnings.catch_warnings():
        # PEFT saying that it saves resized embeddings, or cannot look the base up to know
        warnings.filterwarnings("ignore", message=r"Setting `save_embedding_layers`|Could not find a config file")
        backbone.save_pretrained(directory, **kwargs)
    for file in (directory / name).glob("adapter_*") if _is_peft_model(backbone) and name != "default" else ():
        shutil.move(file, directory / file.name)
    if kwargs.get("is_main_process", True):
        _fill_base_name(directory / ADAPTER_CONFIG, _base_name(backbone, config))


def _fill_base_name(path: Path, name: str | None) -> None:
    """PEFT leaves the base's name empty when it was built around an object; the adapter could never be loaded again."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    if not fields.get("base_model_name_or_path"):
        fields["base_model_name_or_path"] = name
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------- dtypes


def saved_dtypes(files: list[Path]) -> dict[str, tuple[Path, torch.dtype]]:
    """File and dtype of every tensor in safetensors files. Only headers are read."""
    from safetensors import safe_open

    found = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                found[key] = (path, _torch_dtype(file.get_slice(key).get_dtype()))
    return found


def restore_dtypes(tensors: dict[str, Any], files: list[Path]) -> None:
    """Give tensors the dtype, and so the exact values, they were saved with.

    Loaders cast: PEFT to float32, transformers a whole model to one dtype.

    Args:
        tensors: parameters or buffers by their names in the files; changed in place.
        files: safetensors files.
    """
    from safetensors import safe_open

    for key, (path, dtype) in saved_dtypes(files).items():
        tensor = tensors.get(key)
        if tensor is not None and tensor.is_floating_point() and dtype.is_floating_point and tensor.dtype != dtype:
            with safe_open(path, framework="pt") as file:
                tensor.data = file.get_tensor(key).to(tensor.device)


_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _torch_dtype(name: str) -> torch.dtype:
    return _DTYPES.get(name, torch.uint8)  # of the others all that matters is that they are left alone


Convert = Callable[[Tensor], Tensor]


def convert_own(parameters: list[nn.Parameter], convert: Convert, base: Any) -> None:
    """Move or cast an adapter's own parameters, and leave the weights it shares alone.

    Raises:
        ValueError: that would part it from its base, whose device is another.
    """
    if not parameters:
        return
    target = convert(torch.empty(0, dtype=parameters[0].dtype, device=parameters[0].device)).device
    spread = (
        len({parameter.device for parameter in base.parameters()}) > 1
    )  # over several devices, each with its layers
    if any(parameter.device != target for parameter in parameters) if spread else target != base.device:
        raise ValueError(
            f"This reward model shares the weights of its base model, which is on {base.device}, so it cannot move to "
            f"{target} alone. Move the base model first: `base_model.to({str(target)!r})`."
        )
    with torch.no_grad():
        for parameter in parameters:
            parameter.data = convert(parameter.data)
