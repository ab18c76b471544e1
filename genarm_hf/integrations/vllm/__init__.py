"""Guided models inside vLLM: base and reward models are one model of vLLM's, and alpha belongs to the request.

`genarm-hf compose` writes a directory that vLLM serves; vLLM finds this plugin by its entry point
`vllm.general_plugins`. Only `processor`, whose classes have to be vLLM's, imports it when loaded.
"""

from .composition import ARCHITECTURE, SHARED_ARCHITECTURE


def register() -> None:
    """Tell vLLM of compositions. It calls this in each of its processes, whatever it serves there, so this is cheap."""
    from vllm import ModelRegistry
    from vllm.model_executor.models import config as model_configs

    from .config import CompositionHook

    for name, module in ((ARCHITECTURE, "joint_model"), (SHARED_ARCHITECTURE, "shared_model")):
        ModelRegistry.register_model(name, f"{__name__}.{module}:{name}")
        model_configs.MODELS_CONFIG_MAP[name] = CompositionHook
