"""Test-time alignment as an ordinary argument of `generate()` (GenARM, arXiv 2410.08193).

Importing registers the reward-model class with the Auto classes and lets `model.generate()` take `reward_models` and
`alpha`; both wait for the parts of transformers they concern, so the import is cheap. `GENARM_HF_NO_INSTALL=1` leaves
`generate()` alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import install_on_import, register

__version__ = "0.1.0"

_LAZY = {
    "ARMTrainer": "training",
    "ARMTrainingArguments": "training",
    "AutoregressiveRewardModel": "modeling_genarm",
    "GenARMConfig": "configuration_genarm",
    "GenARMGenerationMixin": "decoding.generation",
    "GenARMLogitsProcessor": "decoding.logits_process",
    "GuidedModel": "decoding.guided_model",
    "ImplicitRewardModel": "modeling_implicit",
    "RewardGuidedGenerationPipeline": "integrations.pipelines",
    "guide": "decoding.guided_model",
    "install": "decoding.generation",
    "uninstall": "decoding.generation",
}

if TYPE_CHECKING:
    from .configuration_genarm import GenARMConfig
    from .decoding.generation import GenARMGenerationMixin, install, uninstall
    from .decoding.guided_model import GuidedModel, guide
    from .decoding.logits_process import GenARMLogitsProcessor
    from .integrations.pipelines import RewardGuidedGenerationPipeline
    from .modeling_genarm import AutoregressiveRewardModel
    from .modeling_implicit import ImplicitRewardModel
    from .training import ARMTrainer, ARMTrainingArguments

__all__ = [
    "ARMTrainer",
    "ARMTrainingArguments",
    "AutoregressiveRewardModel",
    "GenARMConfig",
    "GenARMGenerationMixin",
    "GenARMLogitsProcessor",
    "GuidedModel",
    "ImplicitRewardModel",
    "RewardGuidedGenerationPipeline",
    "guide",
    "install",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


register()
install_on_import()
