"""Make the reward-model class known to `AutoConfig`, `AutoModel`, `AutoModelForCausalLM` and `pipeline()`."""

from functools import wraps
from types import ModuleType
from typing import Any

from .post_import import when_imported


def register() -> None:
    """Register as soon as the Auto classes, and the pipelines, are imported."""
    when_imported("transformers.models.auto.modeling_auto", _register_auto_classes)
    when_imported("transformers.pipelines", _register_pipelines)


def _register_auto_classes(modeling_auto: ModuleType) -> None:
    from transformers import AutoConfig

    from .configuration_genarm import GenARMConfig
    from .modeling_genarm import AutoregressiveRewardModel

    AutoConfig.register(GenARMConfig.model_type, GenARMConfig, exist_ok=True)
    for auto_class in (modeling_auto.AutoModel, modeling_auto.AutoModelForCausalLM):
        auto_class.register(GenARMConfig, AutoregressiveRewardModel, exist_ok=True)
    _prefer_own_config()


def _prefer_own_config() -> None:
    """Let an adapter repository with a genarm `config.json` load as what that file says.

    The Auto classes follow `adapter_config.json` on the hub straight to the adapter's base, and would return the base with the adapter inside.
    """
    from transformers.models.auto import auto_factory

    from .modeling_genarm import is_genarm_repository

    find = auto_factory.find_adapter_config_file
    if getattr(find, "_genarm", False):
        return

    @wraps(find)
    def find_adapter_config_file(repo: Any, *args: Any, **kwargs: Any) -> Any:
        path = find(repo, *args, **kwargs)
        return None if path is not None and is_genarm_repository(str(repo), kwargs) else path

    find_adapter_config_file._genarm = True  # type: ignore[attr-defined]
    auto_factory.find_adapter_config_file = find_adapter_config_file


def _register_pipelines(pipelines: ModuleType) -> None:
    from .integrations.pipelines import register_pipelines

    register_pipelines(pipelines)
