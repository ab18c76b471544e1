"""Models from names on the command line, and one sentence where that fails."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .parsing import UsageError

T = TypeVar("T")


@contextmanager
def quiet() -> Iterator[None]:
    """Loading bars and advice of the libraries underneath are not part of a command's output."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_base(
    name: str, dtype: str, device: str, option: str = "--model", device_map: str | None = None
) -> tuple[Any, Any]:
    """A base model on its device, and its tokenizer.

    Args:
        name: folder or hub name.
        dtype: of the weights; `"auto"`: as they are stored.
        device: torch's name for it; `"auto"`: the fastest there is.
        option: what named it.
        device_map: instead of a device, how accelerate spreads it over all devices.

    Raises:
        UsageError: one of them is not there.
    """
    from transformers import AutoModelForCausalLM

    place = find_device(device)
    spread = {} if device_map is None else {"device_map": device_map}
    model = _load(option, name, lambda: AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **spread))
    tokenizer = load_tokenizer(option, name)
    return (model.to(place) if device_map is None else model).eval(), tokenizer


def look_at(names: Sequence[str], option: str = "--reward-model") -> None:
    """Read the configurations of reward models: a wrong name is then said before the base, which is larger, is loaded.

    Args:
        names: folders or hub names.
        option: what named them.

    Raises:
        UsageError: one of them is not there, or no causal LM.
    """
    from ..adapters import ADAPTER_CONFIG, check_adapter
    from ..loading import Repository, load_config

    def look(name: str) -> None:
        repo = Repository.open(name, {})
        fields = repo.json(ADAPTER_CONFIG)
        if fields is not None:
            check_adapter(fields, name)
        load_config(repo, None, fields, False)

    for name in names:
        _load(option, name, partial(look, name))


def load_reward_model(name: str, base: Any, base_name: str, dtype: str, option: str = "--reward-model") -> Any:
    """A reward model on the base's device; an adapter of the base itself shares the base's weights.

    Args:
        name: folder or hub name.
        base: the loaded base.
        base_name: what it was loaded from.
        dtype: of the weights.
        option: what named it.

    Raises:
        UsageError: it is not there.
    """
    from ..modeling_genarm import AutoregressiveRewardModel

    def load() -> Any:
        if same_model(_adapter_base(name), base_name):
            return AutoregressiveRewardModel.from_pretrained(name, base_model=base)
        return AutoregressiveRewardModel.from_pretrained(name, dtype=dtype).to(base.device)

    return _load(option, name, load)


def load_judge(option: str, name: str, dtype: str, device: str, base: Any = None, base_name: str = "") -> Any:
    """A reward model to be asked for its rewards, on a device of its own.

    Args:
        option: what named it on the command line.
        name: folder or hub name.
        dtype: of the weights; `"auto"`: as they are stored.
        device: torch's name for it; `"auto"`: the fastest there is.
        base: a loaded model, whose weights an adapter of that model shares.
        base_name: what it was loaded from.

    Raises:
        UsageError: it is not there.
    """
    from ..modeling_genarm import AutoregressiveRewardModel

    place = find_device(device)

    def load() -> Any:
        if base is not None and same_model(_adapter_base(name), base_name):
            return AutoregressiveRewardModel.from_pretrained(name, base_model=base)
        return AutoregressiveRewardModel.from_pretrained(name, dtype=dtype).to(place).eval()

    return _load(option, name, load)


def load_tokenizer(option: str, name: str) -> Any:
    """The tokenizer of a model; that of its base for an adapter that has none.

    Raises:
        UsageError: it is not there.
    """
    from transformers import AutoTokenizer

    def load() -> Any:
        try:
            return AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError):
            base = _adapter_base(name)
            if base is None:
                raise
            return AutoTokenizer.from_pretrained(base)

    return _load(option, name, load)


def open_part(option: str, name: str) -> Any:
    """A model that vLLM shall load: its configuration is read here, its weights are not.

    Args:
        option: what named it on the command line.
        name: folder or hub name.

    Raises:
        UsageError: it is not there, or vLLM could not load it.
    """
    from ..integrations.vllm import composition

    return _load(option, name, lambda: composition.open_part(name))


def find_device(name: str) -> Any:
    """The device that `--device` names; `"auto"`: the fastest there is.

    Raises:
        UsageError: this machine does not have it.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"`--device` must name a device of this machine, got {name!r}: {str(error).splitlines()[0]}"
        ) from error


def _adapter_base(repo: str) -> str | None:
    """The base model that an adapter repository names; None for full weights."""
    from ..adapters import ADAPTER_CONFIG
    from ..loading import Repository

    base = (Repository(repo).json(ADAPTER_CONFIG) or {}).get("base_model_name_or_path")
    return base if isinstance(base, str) else None


def same_model(one: str | None, other: str) -> bool:
    """Whether two names are one folder's, or one repository's."""
    if one is None or one == other:
        return one is not None
    paths = Path(one), Path(other)
    return all(path.is_dir() for path in paths) and paths[0].samefile(paths[1])


def _load(option: str, name: str, load: Callable[[], T]) -> T:
    """What `load` gives, or one sentence for what the libraries underneath say over many lines."""
    from ..loading import reason, whole_downloads

    # `org/name` may be on the hub, and so may `name`; anything else can only be a folder
    if (name.count("/") > 1 or name.startswith((".", "/", "~"))) and not Path(name).is_dir():
        raise UsageError(f"`{option}`: there is no folder {name!r}.")
    try:
        with whole_downloads(name):
            return load()
    except MemoryError:
        raise
    except Exception as error:  # whatever the libraries underneath run into, where a file holds what it should not
        said = reason(error).removeprefix(f"{name!r} could not be loaded: ")
        raise UsageError(f"`{option}` {name!r} could not be loaded: {said}") from error
