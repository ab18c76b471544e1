"""Bases of the lab tuned by training, DPO and SimPO: trained once a setting, then loaded."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .lab import Lab
from .models import lora


@dataclass(frozen=True)
class PolicyTraining:
    """How a policy is trained; the defaults suit LoRA on the lab's strong base.

    Attributes:
        method: `"dpo"` or `"simpo"`.
        objective: what the judge prefers.
        seed: of pairs and training.
        pairs: number of pairs, the same that an ARM with this seed is trained on.
        beta: of the loss; the two methods' betas are not on one scale.
        backbone: `"strong"`, with a LoRA adapter of this rank, or `"weak"`, with all weights.
        learning_rate: at its highest.
        rank: of the adapter.
        batch_size: pairs a step.
        epochs: passes over the pairs.
    """

    method: str
    objective: str
    seed: int
    pairs: int
    beta: float = 0.1
    backbone: str = "strong"
    learning_rate: float = 2e-3
    rank: int = 16
    batch_size: int = 8
    epochs: int = 1


def policy_folder(lab: Lab, training: PolicyTraining, pairs: Callable[[], Any] | None = None) -> Path:
    """Where a tuned model or its adapter is, trained if the lab does not have it yet.

    Args:
        lab: of bases and pairs.
        training: how.
        pairs: makes the pairs, where the objective is none of the lab's. None: those of the lab.
    """
    settings = {**asdict(training), "base": lab.strong_settings()}
    make = pairs or (lambda: lab.pairs(training.objective, training.pairs, training.seed))
    kind = f"{training.method}-{training.objective}"
    return lab.trained(kind, settings, lambda draft: _train(lab, training, make(), draft))


def trained_policy(lab: Lab, training: PolicyTraining) -> Any:
    """A tuned causal LM, trained if the lab does not have it yet; as fast as its base, adapters being merged."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    folder = policy_folder(lab, training)
    if training.backbone == "weak":
        return LlamaForCausalLM.from_pretrained(folder, dtype=lab.weak.dtype).eval()
    return PeftModel.from_pretrained(copy.deepcopy(lab.strong), folder).merge_and_unload().eval()


def _train(lab: Lab, training: PolicyTraining, pairs: Any, folder: Path) -> None:
    from ..baselines.training_time import train_dpo, train_simpo

    train = {"dpo": train_dpo, "simpo": train_simpo}[training.method]
    strong = training.backbone == "strong"
    train(
        copy.deepcopy(lab.strong if strong else lab.weak),  # PEFT puts its adapter into the very object
        lab.tokenizer,
        pairs,
        beta=training.beta,
        learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=training.seed,
        peft_config=lora(training.rank) if strong else None,
        output_dir=str(folder),
        lr_scheduler_type="cosine",
        warmup_steps=5,
    )
