"""Repositories, local or on the hub, and the causal LMs in them that become reward models.

What can be wrong with a repository is said here, in one sentence and before anything heavy: pickles, cut-off files,
classifiers, adapters without a base.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, logging

from .adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    attach,
    base_tensors,
    check_adapter,
    requires_grad_kept,
    restore_dtypes,
    saved_dtypes,
    share_weights,
    shareable,
)
from .configuration_genarm import GenARMConfig

logger = logging.get_logger(__name__)

_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})/")
_SHA256 = re.compile(r"[0-9a-f]{64}")
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
# what building a model runs into where its configuration has impossible numbers or names
_NONSENSE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_NEEDED = "A reward model gives every next token a reward: it must be a causal LM (train one with ARMTrainer)."


@dataclass
class Repository:
    """Files of one repository, all of one revision.

    Attributes:
        name: directory or hub id.
        hub: the caller's `revision`, `token`, `cache_dir`, ... The revision is pinned by the first file that is found.
        opened: when, in seconds since 1970: what is newer in the cache was downloaded meanwhile.
        folder: where the last file was found; None: no file was, yet.
    """

    name: str
    hub: dict[str, Any] = field(default_factory=dict)
    opened: float = field(default_factory=time.time)
    folder: Path | None = None

    @classmethod
    def open(cls, name: str | os.PathLike, kwargs: dict[str, Any]) -> "Repository":
        """The repository, with its part of `from_pretrained`'s arguments taken out of `kwargs`.

        Raises:
            ValueError: the name is a path, and there is no directory.
        """
        hub = {key: kwargs.pop(key) for key in _HUB_KWARGS if key in kwargs}
        repo = cls(str(name), {key: value for key, value in hub.items() if value is not None})
        if not repo.is_local and (
            os.path.isabs(repo.name) or repo.name.startswith(("./", "../", "~")) or os.path.exists(repo.name)
        ):
            raise ValueError(
                f"{repo.name!r} is not a directory. Pass the directory that `save_pretrained` wrote, or a hub id."
            )
        return repo

    @property
    def is_local(self) -> bool:
        """Whether it is a directory here."""
        return os.path.isdir(self.name)

    def path(self, filename: str) -> Path | None:
        """A file, downloaded if need be, or None where the repository does not have it."""
        with whole_downloads(self.name):
            found = cached_file(
                self.name,
                filename,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **self.hub,
            )
        if found is None:
            return None
        commits = [] if self.is_local else _COMMIT.findall(Path(found).as_posix())
        if commits:
            self.hub["revision"] = commits[-1]
        self.folder = Path(found).parent
        return Path(found)

    def json(self, filename: str) -> dict[str, Any] | None:
        """A json file's fields, or None where the repository does not have it.

        Raises:
            ValueError: the file is no json object.
        """
        path = self.path(filename)
        if path is None:
            return None
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{filename} of {self.name!r} is not valid JSON: {error}.") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{filename} of {self.name!r} must hold a JSON object, got {type(fields).__name__}.")
        return fields

    def require(self, filename: str) -> Path:
        """A file that has to be there."""
        path = self.path(filename)
        if path is None:
            raise unreadable(self, FileNotFoundError(f"there is no {filename}"))
        return path


@contextmanager
def whole_downloads(name: str) -> Iterator[None]:
    """Say in one sentence that a download broke off, which is otherwise an error of the HTTP library underneath.

    Args:
        name: the repository.

    Raises:
        OSError: as said.
    """
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except HTTPError as error:
        if isinstance(error, OSError):  # what the hub itself answered
            raise
        raise OSError(
            f"The download of {name!r} broke off: {str(error).rstrip('.')}. What is incomplete is not used; the next "
            "try downloads it anew."
        ) from error


@contextmanager
def unaltered_weights(repo: Repository) -> Iterator[None]:
    """Compare the weights that are downloaded meanwhile with the sha256 that the hub names for them.

    Of what Xet does not bring, the hub's client compares the size alone. Its cache calls a large file by that sha256.
    What was there before is not read again, which takes seconds for every 10 GB.

    Args:
        repo: the repository, of which a file was found already.

    Raises:
        ValueError: a file is another one. It is taken out of the cache, or the next call would trust it.
    """
    try:
        yield
    except Exception:
        _refuse_altered(repo)  # which explains the error
        raise
    _refuse_altered(repo)


def _refuse_altered(repo: Repository) -> None:
    files = [] if repo.is_local or repo.folder is None else sorted(repo.folder.glob("*.safetensors"))
    altered = [(path, found) for path in files if (found := _altered(path, repo.opened)) is not None]
    if altered:
        path, found = altered[0]
        raise ValueError(
            f"{path.name} of {repo.name!r} arrived changed: its sha256 is {found}, and the hub says "
            f"{path.readlink().name}. It was removed from the cache, so the next try downloads it anew; if that ends "
            "here too, look at the proxy or mirror (HF_ENDPOINT) in between."
        )


def _altered(path: Path, since: float) -> str | None:
    """The sha256 of a cached file that is new and not what it is called, and now removed. None: nothing is wrong."""
    blob = path.parent / path.readlink() if path.is_symlink() else path
    # a blob that is a link itself lies in the store of what Xet has checked
    if blob.is_symlink() or not _SHA256.fullmatch(blob.name) or blob.stat().st_mtime < since:
        return None
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == blob.name:
        return None
    blob.unlink()
    return found


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Say in one sentence that a file holds what cannot be meant.

    The libraries underneath raise whatever their code runs into: a KeyError where a field is missing, a
    ZeroDivisionError for a model without heads.

    Args:
        what: whose file it is, "config.json of 'org/arm'".

    Raises:
        OSError: as it was: the file is not there, or cannot be reached.
        ValueError: in the place of all other errors.
    """
    try:
        yield
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be used: {reason(error)}") from error


def reason(error: BaseException) -> str:
    r"""An error on one line, with its kind where that says more than its words.

    Example:
        >>> reason(KeyError("vocab_size")), reason(ValueError("It is\n  empty."))
        ("KeyError 'vocab_size'", 'It is empty.')
    """
    said = " ".join(str(error).split())
    speaks = isinstance(error, (OSError, ValueError, TypeError, ImportError)) and bool(said)
    return said if speaks else f"{type(error).__name__} {said}".strip()


def is_genarm_repository(name: str, hub: dict[str, Any]) -> bool:
    """Whether a repository's `config.json` is a reward model's."""
    fields = Repository(name, {key: value for key, value in hub.items() if key in _HUB_KWARGS}).json("config.json")
    return fields is not None and fields.get("model_type") == GenARMConfig.model_type


# ---------------------------------------------------------------------- configuration


def load_config(repo: Repository, wanted: Any, adapter: dict | None, trust_remote_code: Any) -> PreTrainedConfig | None:
    """The configuration of a repository, a reward model's or a plain causal LM's; None for a plain adapter.

    Args:
        repo: the repository.
        wanted: the caller's `config=`, an object, directory or hub id; None: the repository's own.
        adapter: its `adapter_config.json`, if it has one.
        trust_remote_code: as the caller passed it.

    Raises:
        OSError: the repository is not there, or cannot be reached.
        TypeError: it is the configuration of something else, such as a classifier.
        ValueError: it is a reward model's without `text_config`, and there is no adapter that knows its base.
    """
    config = wanted
    if not isinstance(wanted, PreTrainedConfig):
        source = repo if wanted is None else Repository.open(wanted, {})
        fields = source.json("config.json")
        if fields is None and adapter is not None:
            return None
        is_genarm = fields is not None and fields.get("model_type") == GenARMConfig.model_type
        kwargs = source.hub if is_genarm else source.hub | {"trust_remote_code": trust_remote_code}
        try:
            with readable(f"config.json of {source.name!r}"):
                config = (GenARMConfig if is_genarm else AutoConfig).from_pretrained(source.name, **kwargs)
        except OSError as error:
            first = str(error).strip().splitlines()[0]
            raise OSError(f"{source.name!r} could not be loaded: {first}") from error
    if isinstance(config, GenARMConfig) or config.model_type == GenARMConfig.model_type:
        if config.text_config is None and adapter is None:
            raise ValueError(
                f"config.json of {repo.name!r} has no `text_config`, the configuration of the causal LM underneath. "
                "Save the reward model again with `save_pretrained`."
            )
    else:
        _check_architecture(config, repo.name)
    return config


def _check_architecture(config: PreTrainedConfig, name: str) -> None:
    found = [
        kind
        for kind in (config.architectures or [])
        if any(word in kind for word in ("Classification", "MaskedLM", "QuestionAnswering"))
    ]
    if found:
        raise TypeError(f"{name!r} is a {found[0]}, not a causal LM. {_NEEDED}")
    if config.is_encoder_decoder:
        raise TypeError(f"{name!r} is a {config.model_type} model, an encoder-decoder. {_NEEDED}")


# ---------------------------------------------------------------------- full weights


def load_full(repo: Repository, config: Any, model_args: tuple, kwargs: dict[str, Any]) -> PreTrainedModel:
    """The causal LM of a repository with full weights. Safetensors only: a pickle runs code when it is read.

    Args:
        repo: the repository.
        config: its configuration, a reward model's or a plain one.
        model_args: passed on to the model.
        kwargs: likewise; `dtype` defaults to the configuration's.

    Raises:
        ValueError: weights are missing, cut off, in pickle format, or of other shapes than the configuration says.
    """
    from transformers import AutoModelForCausalLM

    if kwargs.get("use_safetensors", True) is False:
        raise ValueError("`use_safetensors=False` asks for a pickle file, which can run code when read. Leave it out.")
    if repo.is_local:
        _check_files(repo)
    is_genarm = config.model_type == GenARMConfig.model_type
    asked = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
    kwargs = kwargs | repo.hub | {"dtype": asked or getattr(config, "dtype", None) or "auto", "use_safetensors": True}
    try:
        with whole_downloads(repo.name):
            model, info = AutoModelForCausalLM.from_pretrained(
                repo.name,
                *model_args,
                config=config.text_config if is_genarm else config,
                output_loading_info=True,
                **kwargs,
            )
    except (OSError, SafetensorError) as error:
        raise unreadable(repo, error) from error
    except _NONSENSE as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise
        raise _unbuildable(repo, error) from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise ValueError(
            f"The weights of {repo.name!r} are not those of a complete {type(model).__name__}: {len(names)} tensors "
            f"are missing, {names[0]!r} first. {_NEEDED}"
        )
    if is_genarm:
        _restore_mixed_dtypes(repo, model)
    return model


def _unbuildable(repo: Repository, error: Exception) -> ValueError:
    """What to say of a model that its configuration does not describe."""
    if "ignore_mismatched_sizes" in str(error):
        return ValueError(
            f"The weights of {repo.name!r} have other shapes than its config.json says. Save the repository again."
        )
    return ValueError(f"{repo.name!r} could not be loaded: {reason(error)}")


def _restore_mixed_dtypes(repo: Repository, model: PreTrainedModel) -> None:
    """A model of several dtypes was loaded in one: undo that, unless another dtype or quantisation was asked for."""
    recorded = (repo.json("config.json") or {}).get("dtype")
    if str(model.dtype).removeprefix("torch.") == recorded and not getattr(model, "is_quantized", False):
        restore_dtypes(model.state_dict(keep_vars=True), _weight_files(repo))


def _weight_files(repo: Repository) -> list[Path]:
    """The safetensors files of full weights."""
    index = repo.json(INDEX) if repo.path(WEIGHTS) is None else None
    names = [WEIGHTS] if index is None else sorted(set(index["weight_map"].values()))
    return [path for name in names if (path := repo.path(name)) is not None]


def _check_files(repo: Repository) -> None:
    """Open every file's header: a file that was cut off shows here, before a model is built."""
    folder = Path(repo.name, repo.hub.get("subfolder", ""))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise unreadable(repo, FileNotFoundError(f"there is no {WEIGHTS}"))
    try:
        saved_dtypes(files)
    except Exception as error:
        raise unreadable(repo, error) from error


def unreadable(repo: Repository, error: Exception) -> ValueError:
    """What to say of weights that cannot be read: that they are a pickle, or what the reader said."""
    pickled = _pickles(repo)
    if pickled:
        return ValueError(
            f"{repo.name!r} holds its weights in {pickled[0]}, a pickle file, which can run code when read. Convert it "
            "to safetensors where you trust it: load it there and call `save_pretrained`."
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return ValueError(
        f"The weights of {repo.name!r} could not be read: {lines[0].rstrip('.')}. Download or save the repository "
        "again."
    )


def _pickles(repo: Repository) -> list[str]:
    """Pickle files in a repository that has no safetensors."""
    if repo.is_local:
        names = [path.name for path in Path(repo.name, repo.hub.get("subfolder", "")).iterdir()]
    else:
        from huggingface_hub import list_repo_files

        try:
            files = list_repo_files(repo.name, revision=repo.hub.get("revision"), token=repo.hub.get("token"))
        except Exception:  # offline, gated or gone: the reader's own error has to do
            return []
        names = [Path(file).name for file in files]
    return [] if any(name.endswith(".safetensors") for name in names) else [name for name in _PICKLES if name in names]


# ---------------------------------------------------------------------- adapters


def load_adapter(
    repo: Repository,
    fields: dict[str, Any],
    config: Any,
    base_model: PreTrainedModel | None,
    model_args: tuple,
    kwargs: dict[str, Any],
) -> Any:
    """A PEFT model around the adapter's base, which is loaded, or shared with `base_model`.

    Args:
        repo: the adapter's repository.
        fields: its `adapter_config.json`.
        config: its [`GenARMConfig`]; None for a plain adapter.
        base_model: model to share weights with.
        model_args: passed on to the base.
        kwargs: likewise.

    Raises:
        ValueError: the adapter is broken, its base missing, or of another shape.
    """
    is_trainable = kwargs.pop("is_trainable", False)
    check_adapter(fields, repo.name)
    directory = _check_adapter_files(repo)
    if base_model is None:
        model = attach(_load_base(repo, fields, config, model_args, kwargs), directory, repo.name, is_trainable)
    else:
        _refuse_loading_arguments(kwargs)
        base_model = shareable(base_model)
        with requires_grad_kept(base_model):
            base = share_weights(base_model, private=base_tensors(directory, base_model))
            model = attach(base, directory, repo.name, is_trainable)
    generation = repo.path("generation_config.json")
    if generation is not None:
        with readable(f"generation_config.json of {repo.name!r}"):
            model.get_base_model().generation_config = GenerationConfig.from_pretrained(str(generation.parent))
    return model


def _check_adapter_files(repo: Repository) -> Path:
    """The directory with the adapter's two files, after a look at both."""
    weights = repo.require(ADAPTER_WEIGHTS)
    try:
        saved_dtypes([weights])
    except Exception as error:
        raise unreadable(repo, error) from error
    return repo.require(ADAPTER_CONFIG).parent


def _refuse_loading_arguments(kwargs: dict[str, Any]) -> None:
    """A base that is shared is as it is: arguments that would load it in another way are refused."""
    given = [
        name
        for name in ("dtype", "torch_dtype", "device_map", "quantization_config", "attn_implementation")
        if kwargs.get(name) not in (None, "auto")
    ]
    if given:
        raise ValueError(
            f"`{given[0]}` has no effect with `base_model`, whose weights are used as they are. Pass it when loading "
            "the base model."
        )


def _load_base(
    repo: Repository, fields: dict[str, Any], config: Any, model_args: tuple, kwargs: dict[str, Any]
) -> PreTrainedModel:
    name = fields.get("base_model_name_or_path")
    fix = "Pass the loaded model as `base_model=`."
    if not name or not isinstance(name, str):
        raise ValueError(f"{repo.name!r} is an adapter whose {ADAPTER_CONFIG} does not name its base model. {fix}")
    hub = {key: value for key, value in repo.hub.items() if key not in ("revision", "subfolder")}
    try:
        base = Repository.open(name, hub | {"revision": fields.get("revision")})
        base_config = load_config(base, None, None, kwargs.get("trust_remote_code"))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{repo.name!r} is an adapter of {name!r}, which could not be loaded. {fix}") from error
    if base.path(ADAPTER_CONFIG) is not None:
        raise ValueError(
            f"{repo.name!r} is an adapter of {name!r}, which is an adapter itself. Merge that one into its base. {fix}"
        )
    kwargs["dtype"] = kwargs.pop("dtype", kwargs.pop("torch_dtype", None)) or getattr(config, "dtype", None)
    attention = getattr(config, "_attn_implementation_internal", None)
    if attention is not None:
        kwargs.setdefault("attn_implementation", attention)
    with unaltered_weights(base):
        return load_full(base, base_config, model_args, kwargs)
