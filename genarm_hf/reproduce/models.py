"""Reward models of the lab: trained once a setting, then loaded."""

import contextlib
import copy
import io
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..modeling_genarm import AutoregressiveRewardModel
from ..playground.preferences import PreferencePair
from .lab import Lab


@dataclass(frozen=True)
class ArmTraining:
    """How an ARM is trained; the defaults suit LoRA on the lab's strong base.

    Attributes:
        objective: what the judge prefers.
        seed: of pairs and training.
        pairs: number of pairs.
        backbone: `"strong"`, with a LoRA adapter of this rank, or `"weak"`, with all weights.
        beta: inverse temperature of the loss.
        learning_rate: at its highest.
        rank: of the adapter.
        batch_size: pairs a step.
        label_scale: of the judge, per point (`Lab.pairs`).
        length_normalize: train on log-probabilities per token.
        subtract_reference: train on log-probabilities less those of the backbone, DPO's loss.
        margin: of the loss, inside the sigmoid.
        flipped: share of the labels that are turned round.
    """

    objective: str
    seed: int
    pairs: int
    backbone: str = "strong"
    beta: float = 0.1
    learning_rate: float = 3e-3
    rank: int = 16
    batch_size: int = 8
    label_scale: float = 1.0
    length_normalize: bool = False
    subtract_reference: bool = False
    margin: float = 0.0
    flipped: float = 0.0


def training_pairs(lab: Lab, training: ArmTraining) -> list[PreferencePair]:
    """The pairs of a training, some of them with the wrong label where it says so."""
    rng = random.Random(f"{training.seed} flipped")
    return [
        PreferencePair(prompt=pair["prompt"], chosen=pair["rejected"], rejected=pair["chosen"])
        if rng.random() < training.flipped
        else pair
        for pair in lab.pairs(training.objective, training.pairs, training.seed, training.label_scale)
    ]


def trained_arm(lab: Lab, training: ArmTraining) -> AutoregressiveRewardModel:
    """An ARM, trained if the lab does not have it yet. A LoRA one shares the weights of `lab.strong`."""
    settings = {**asdict(training), "base": lab.strong_settings()}
    folder = lab.trained(f"arm-{training.objective}", settings, lambda draft: _train(lab, training, draft))
    shared: dict[str, Any] = {"base_model": lab.strong} if training.backbone == "strong" else {}
    return AutoregressiveRewardModel.from_pretrained(folder, **shared).eval()


def untrained_arm(lab: Lab, backbone: str = "strong") -> AutoregressiveRewardModel:
    """The backbone itself, read as a reward model: what has learned nothing from pairs."""
    return AutoregressiveRewardModel.from_backbone(lab.strong if backbone == "strong" else lab.weak)


def trained_trajectory_reward(lab: Lab, training: ArmTraining) -> Any:
    """A sequence classifier on the strong base, trained on the pairs that this ARM is trained on, by LoRA likewise.

    Its loss has no beta; what else the training says holds for both.
    """
    from peft import PeftModel

    from ..baselines.trajectory_rewards import from_causal_lm

    settings = {**asdict(training), "base": lab.strong_settings()}
    for name in ("beta", "backbone", "length_normalize", "subtract_reference", "margin"):
        del settings[name]
    folder = lab.trained(
        f"trajectory-{training.objective}", settings, lambda draft: _train_trajectory(lab, training, draft)
    )
    return PeftModel.from_pretrained(from_causal_lm(lab.strong), folder).eval()


def trained_prefix_value(lab: Lab, training: ArmTraining) -> Any:
    """A token classifier that says of unfinished replies what that trajectory-level reward model will say of them.

    It learns from the replies of the training's pairs, which are the base's own (CD-FUDGE, arXiv 2310.17022), as many
    as there are pairs, so that it reads half of what the reward model reads.
    """
    from peft import PeftModel

    from ..baselines.trajectory_rewards import from_causal_lm

    settings = {**asdict(training), "base": lab.strong_settings()}
    for name in ("beta", "backbone", "length_normalize", "subtract_reference", "margin"):
        del settings[name]
    folder = lab.trained(f"value-{training.objective}", settings, lambda draft: _train_value(lab, training, draft))
    return PeftModel.from_pretrained(from_causal_lm(lab.strong, per_token=True), folder).eval()


def _train_value(lab: Lab, training: ArmTraining, folder: Path) -> None:
    from transformers import TrainingArguments

    from ..baselines.reward_training import train_prefix_value
    from ..baselines.trajectory_rewards import TrajectoryReward, from_causal_lm

    rng = random.Random(training.seed)  # of a pair, either reply: the base's, whatever the label
    texts = [(pair["prompt"], rng.choice([pair["chosen"], pair["rejected"]])) for pair in training_pairs(lab, training)]
    reward = TrajectoryReward(trained_trajectory_reward(lab, training), lab.tokenizer)
    prompts, replies = [prompt for prompt, _ in texts], [reply for _, reply in texts]
    points = reward.score(prompts, replies, batch_size=64).tolist()
    rows = [
        {
            "prompt_ids": lab.tokenizer(prompt)["input_ids"],
            "response_ids": [*lab.tokenizer(reply)["input_ids"], lab.tokenizer.eos_token_id],
            "reward": one,
        }
        for (prompt, reply), one in zip(texts, points, strict=True)
    ]
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        args = TrainingArguments(output_dir=scratch, lr_scheduler_type="cosine", **_shared_arguments(training))
        with contextlib.redirect_stdout(io.StringIO()):
            value = train_prefix_value(
                from_causal_lm(lab.strong, per_token=True), rows, args, peft_config=lora(training.rank)
            )
        value.model.save_pretrained(folder)


def _train_trajectory(lab: Lab, training: ArmTraining, folder: Path) -> None:
    from transformers import TrainingArguments

    from ..baselines.reward_training import train_trajectory_reward
    from ..baselines.trajectory_rewards import from_causal_lm

    pairs = training_pairs(lab, training)
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)  # head and adapter are drawn before the Trainer seeds
        args = TrainingArguments(output_dir=scratch, lr_scheduler_type="cosine", **_shared_arguments(training))
        with contextlib.redirect_stdout(io.StringIO()):  # the Trainer prints its times
            reward = train_trajectory_reward(
                from_causal_lm(lab.strong), pairs, lab.tokenizer, args, peft_config=lora(training.rank)
            )
        reward.model.save_pretrained(folder)


def _train(lab: Lab, training: ArmTraining, folder: Path) -> None:
    from transformers import PrinterCallback

    from ..training import ARMTrainer

    pairs = training_pairs(lab, training)
    strong = training.backbone == "strong"
    model = lab.strong if strong else copy.deepcopy(lab.weak)
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)  # an adapter is drawn before the Trainer seeds
        trainer = ARMTrainer(
            model,
            args=_arguments(training, scratch),
            train_dataset=pairs,
            processing_class=lab.tokenizer,
            peft_config=lora(training.rank) if strong else None,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.save_model(str(folder))


def lora(rank: int) -> Any:
    """The adapter of everything that is trained on the strong base."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def _arguments(training: ArmTraining, scratch: str) -> Any:
    from ..training import ARMTrainingArguments

    return ARMTrainingArguments(
        output_dir=scratch,
        objective=training.objective,
        beta=training.beta,
        length_normalize=training.length_normalize,
        subtract_reference=training.subtract_reference,
        margin=training.margin,
        **_shared_arguments(training),
    )


def _shared_arguments(training: ArmTraining) -> dict[str, Any]:
    """What both kinds of reward model are trained with."""
    return {
        "learning_rate": training.learning_rate,
        "num_train_epochs": 1,
        "per_device_train_batch_size": training.batch_size,
        "warmup_steps": 5,
        "seed": training.seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
