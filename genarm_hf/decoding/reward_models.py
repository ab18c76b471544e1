"""What may be passed as a reward model, and what is said of things that may not."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Reward:
    """A given reward model, as the sum of log-probabilities that it is.

    Attributes:
        names: what errors call its causal LMs.
        models: its causal LMs: one, or the two of an implicit reward.
        signs: the sign of each one's log-probability.
    """

    names: tuple[str, ...]
    models: tuple[Any, ...]
    signs: tuple[float, ...]


def as_rewards(reward_models: Any, base: Any) -> tuple[Reward, ...]:
    """What was passed as `reward_models`, one or several, resolved.

    Args:
        reward_models: as in [`guide`].
        base: the base model; repositories are loaded to its device.

    Raises:
        TypeError: something is no reward model.
        ValueError: there are none.
    """
    listed = as_list(reward_models)
    if not listed:
        raise ValueError(
            "`reward_models` is empty. Pass at least one reward model, or call the model's own generate()."
        )
    return tuple(_as_reward(item, f"reward_models[{index}]", base) for index, item in enumerate(listed))


def as_list(reward_models: Any) -> list[Any]:
    """One or several reward models as a list; None is none."""
    if isinstance(reward_models, (list, tuple)):
        return list(reward_models)
    return [] if reward_models is None else [reward_models]


def one_each(tokenizers: Any, arms: int) -> list[Any]:
    """`reward_tokenizers` as one for each reward model.

    Raises:
        ValueError: there are more or fewer.
    """
    if not isinstance(tokenizers, (list, tuple)):
        return [tokenizers] * arms
    if len(tokenizers) != arms:
        raise ValueError(
            f"`reward_tokenizers` must be one tokenizer, or one per reward model ({arms}); got {len(tokenizers)}."
        )
    return list(tokenizers)


def _as_reward(item: Any, name: str, base: Any) -> Reward:
    if not is_implicit(item):
        return Reward((name,), (as_reward_lm(item, name, base),), (1.0,))
    names = f"{name}.tuned", f"{name}.reference"
    models = as_reward_lm(item.tuned, names[0], base), as_reward_lm(item.reference, names[1], base)
    return Reward(names, models, (1.0, -1.0))


def is_implicit(item: Any) -> bool:
    """Whether this is an [`ImplicitRewardModel`]."""
    from ..modeling_implicit import ImplicitRewardModel

    return isinstance(item, ImplicitRewardModel)


def default_alpha(reward_model: Any, base: Any) -> float:
    """The strength a reward model asks for in its config, else 1.0 as in the paper."""
    reward_model = _loaded(reward_model, base)
    alpha = getattr(getattr(reward_model, "config", None), "alpha", None)
    return 1.0 if alpha is None else float(alpha)


def as_reward_lm(reward_model: Any, name: str, base: Any) -> Any:
    """The causal LM that computes a reward model's log-probabilities.

    Args:
        reward_model: an [`AutoregressiveRewardModel`], causal LM, PEFT model, hub id or directory.
        name: what errors call it.
        base: the base model; repositories are loaded to its device.

    Raises:
        TypeError: it is something else; the message says what it is and what is needed.
    """
    reward_model = _loaded(reward_model, base)
    model = getattr(reward_model, "_orig_mod", reward_model)  # torch.compile's wrapper
    if getattr(getattr(model, "config", None), "model_type", None) == "genarm":
        model = model.backbone
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        if getattr(model.active_peft_config, "is_prompt_learning", False):
            raise TypeError(
                f"{name} is a prompt-learning adapter, which is not supported; train a LoRA adapter instead."
            )
        model = model.get_base_model()
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(
            f"{name} must be a reward model, a causal LM, a hub id or a directory, got {type(reward_model).__name__}."
        )
    _check_kind(model, name)
    return model


def _check_kind(model: Any, name: str) -> None:
    kind = type(model).__name__
    needed = "A reward model here gives every next token a reward: it must be a causal LM (train one with ARMTrainer)."
    if "Classification" in kind or "RewardModel" in kind:
        raise TypeError(f"{name} is a {kind}, a trajectory-level reward model that scores finished texts. {needed}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise TypeError(f"{name} is a {kind}, an encoder-decoder. {needed}")
    if not hasattr(model, "can_generate") or not model.can_generate() or _reads_both_ways(model.config):
        raise TypeError(f"{name} is a {kind}, which has no causal language-modelling head. {needed}")


def _reads_both_ways(config: Any) -> bool:
    """An encoder under a language-modelling head (`BertLMHeadModel` without `is_decoder`): it sees what it predicts."""
    if getattr(config, "is_decoder", None) is not False:
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _loaded(reward_model: Any, base: Any) -> Any:
    if not isinstance(reward_model, (str, Path)):
        return reward_model
    folder = Path(reward_model)
    # a directory that is written again is loaded again
    written = max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) if folder.is_dir() else 0
    return load_reward_model(str(reward_model), str(base.device), written)


@lru_cache(maxsize=4)
def load_reward_model(repo: str, device: str, written: int = 0) -> Any:
    """Load a reward model named by a string, once per device and writing; the last four stay loaded."""
    from ..modeling_genarm import AutoregressiveRewardModel

    return AutoregressiveRewardModel.from_pretrained(repo).to(device)


def check_positions(model: Any, name: str, length: int, new_tokens: int = 0) -> None:
    """Refuse texts that a reward model cannot place.

    Args:
        model: the reward model's causal LM.
        name: what errors call it.
        length: tokens of its prompt.
        new_tokens: tokens to be generated at most. Models with relative positions are only warned about these.

    Raises:
        ValueError: the prompt is longer than the model's positions, or would outgrow a table of learned positions.
    """
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit is None or length + new_tokens <= limit:
        return
    if length > limit:
        raise ValueError(
            f"{name} reads at most {limit} tokens (config.max_position_embeddings), and its prompt has {length}. "
            "Shorten the prompt, or give it a shorter one of its own as `reward_inputs=`."
        )
    if _has_position_table(model, limit):
        raise ValueError(
            f"{name} reads at most {limit} tokens, and prompt ({length}) plus new tokens ({new_tokens}) are more. "
            f"Pass `max_new_tokens` of {limit - length} or less."
        )
    logger.warning_once(
        f"{name} was made for {limit} tokens; generation may run to {length + new_tokens}, where its rewards are "
        f"unreliable."
    )


def check_base_positions(model: Any, length: int, new_tokens: int) -> None:
    """Refuse texts that outgrow a base's table of learned positions, where its forward fails, on a GPU for good.

    Args:
        model: the base.
        length: tokens of the prompt.
        new_tokens: tokens to be generated at most; the last of them is not read.

    Raises:
        ValueError: as said.
    """
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit is not None and length + new_tokens - 1 > limit and _has_position_table(model, limit):
        raise ValueError(
            f"The base reads at most {limit} tokens (config.max_position_embeddings), and prompt ({length}) plus new "
            f"tokens ({new_tokens}) are more. Shorten the prompt, or generate fewer tokens."
        )


def _has_position_table(model: nn.Module, limit: int) -> bool:
    """Learned positions (GPT-2, OPT with two extra rows) end where their table ends; rotary ones go on."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and limit <= m.num_embeddings <= limit + 2]
    return any(table is not model.get_input_embeddings() for table in tables)  # type: ignore[operator]
