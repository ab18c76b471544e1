"""What GenARM is compared with: other ways to align a model, each as its paper describes it, on any causal LM.

At test time: decoders by a trajectory reward or a prefix value. By training: SFT, DPO and SimPO, and two ways to
combine models that were tuned for one objective each. Names load when first used, so that importing this package costs
nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .args_decoding import args_generate
    from .best_of_n import best_of_n_generate
    from .cards import cards_generate
    from .mod import mod
    from .reward_training import train_prefix_value, train_trajectory_reward
    from .rewarded_soups import rewarded_soup
    from .training_time import train_dpo, train_sft, train_simpo
    from .trajectory_rewards import TrajectoryReward, from_causal_lm
    from .transfer_q import transfer_q_generate
    from .value_guided import blockwise_generate, sample_value_rows, value_guided_generate

__all__ = [
    "TrajectoryReward",
    "args_generate",
    "best_of_n_generate",
    "blockwise_generate",
    "cards_generate",
    "from_causal_lm",
    "mod",
    "rewarded_soup",
    "sample_value_rows",
    "train_dpo",
    "train_prefix_value",
    "train_sft",
    "train_simpo",
    "train_trajectory_reward",
    "transfer_q_generate",
    "value_guided_generate",
]

# One name a line, in alphabetical order.
_LAZY = {
    "TrajectoryReward": "trajectory_rewards",
    "args_generate": "args_decoding",
    "best_of_n_generate": "best_of_n",
    "blockwise_generate": "value_guided",
    "cards_generate": "cards",
    "from_causal_lm": "trajectory_rewards",
    "mod": "mod",
    "rewarded_soup": "rewarded_soups",
    "sample_value_rows": "value_guided",
    "train_dpo": "training_time",
    "train_prefix_value": "reward_training",
    "train_sft": "training_time",
    "train_simpo": "training_time",
    "train_trajectory_reward": "reward_training",
    "transfer_q_generate": "transfer_q",
    "value_guided_generate": "value_guided",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
