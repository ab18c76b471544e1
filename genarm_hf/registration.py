"""Make the reward-model class known to the Auto classes and `pipeline()`, and reward models to `generate()`."""

import os
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

from .post_import import when_imported

_MODEL = f"{__package__}.modeling_genarm"
_GENERATION = f"{__package__}.decoding.generation"
_PIPELINES = f"{__package__}.integrations.pipelines"


def register() -> None:
    """Register as soon as the Auto classes, and the pipelines, are imported.

    Either may come first, theirs or ours, which imports theirs: what is registered waits for both.
    """
    when_imported("transformers.models.auto.modeling_auto", lambda _: _import(_MODEL))
    when_imported(_MODEL, _register_auto_classes)
    when_imported("transformers.pipelines", _meet_pipelines)
    when_imported(_PIPELINES, lambda ours: ours.register_pipelines(import_module("transformers.pipelines")))


def install_on_import() -> None:
    """Install into `generate()` as soon as transformers has it, unless the environment has `GENARM_HF_NO_INSTALL=1`."""
    if os.environ.get("GENARM_HF_NO_INSTALL", "").lower() not in ("1", "true", "yes"):
        when_imported("transformers.generation.utils", lambda _: import_module(_GENERATION).install())


def _import(name: str) -> None:
    import_module(name)


def _register_auto_classes(modeling_genarm: ModuleType) -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config_class, model_class = modeling_genarm.GenARMConfig, modeling_genarm.AutoregressiveRewardModel
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM):
        auto_class.register(config_class, model_class, exist_ok=True)
    _prefer_own_config(import_module("transformers.models.auto.auto_factory"))


def _prefer_own_config(module: Any) -> None:
    """Let an adapter repository with a genarm `config.json` load as what that file says.

    On the hub, the Auto classes and `pipeline()` follow `adapter_config.json` straight to the adapter's base, and would
    return the base with the adapter inside.

    Args:
        module: one that looks for adapters by a `find_adapter_config_file` of its own.
    """
    from transformers.utils.hub import extract_commit_hash

    from .loading import is_genarm_repository

    find = module.find_adapter_config_file
    if getattr(find, "_genarm", False):
        return

    @wraps(find)
    def find_adapter_config_file(repo: Any, *args: Any, **kwargs: Any) -> Any:
        path = find(repo, *args, **kwargs)
        if path is None:
            return None
        # both files of one revision, and no second question to the hub about it
        revision = extract_commit_hash(str(path), None) or kwargs.get("revision")
        return None if is_genarm_repository(str(repo), kwargs | {"revision": revision}) else path

    find_adapter_config_file._genarm = True  # type: ignore[attr-defined]
    module.find_adapter_config_file = find_adapter_config_file


def _meet_pipelines(pipelines: ModuleType) -> None:
    _prefer_own_config(pipelines)
    import_module(_PIPELINES)
