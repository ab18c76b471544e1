"""Training that goes on from a checkpoint ends, bit for bit, where training that never stopped ends."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from genarm_hf import ARMTrainer

from ..conftest import tiny
from ..training.toys import arguments, toy_pairs, word_tokenizer

LOGGED = ("loss", "grad_norm", "learning_rate", "rewards/accuracy", "rewards/margin", "logps/chosen", "logps/rejected")


def build(root: Path, adapter: bool, options: dict[str, Any]) -> ARMTrainer:
    peft_config = None
    if adapter:
        from peft import LoraConfig

        peft_config = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")
    schedule = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "beta": 0.3}
    args = arguments(root / "run", per_device_train_batch_size=3, **schedule | options)
    model = AutoModelForCausalLM.from_pretrained(root / "base")
    # full fine-tuning has dropout too: of the backbone itself
    args.disable_dropout = adapter
    return ARMTrainer(model, args, toy_pairs(16), None, word_tokenizer(), peft_config)


def outcome(trainer: ARMTrainer) -> tuple[dict[str, torch.Tensor], list[list[float]]]:
    logs = [[entry[name] for name in LOGGED] for entry in trainer.state.log_history if "loss" in entry]
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}, logs


@pytest.mark.parametrize(
    ("adapter", "options"),
    [
        (True, {"num_train_epochs": 2}),
        (False, {"num_train_epochs": 2}),
        # 16 pairs in micro-batches of 3, 2 to a step: 3 steps an epoch, so that checkpoints fall within epochs
        (True, {"num_train_epochs": 3, "gradient_accumulation_steps": 2}),
        (False, {"num_train_epochs": 3, "gradient_accumulation_steps": 2, "optim": "adafactor"}),
    ],
)
def test_every_checkpoint_leads_to_the_same_end(adapter: bool, options: dict[str, Any], tmp_path: Path) -> None:
    if adapter:
        pytest.importorskip("peft")
    tiny("llama", initializer_range=0.1, attention_dropout=0.2).save_pretrained(tmp_path / "base")
    whole = build(tmp_path, adapter, options)
    whole.train()
    weights, logs = outcome(whole)
    steps = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*"))
    assert len(steps) >= 5 and len(logs) == steps[-1]
    for step in steps[:-1]:
        torch.manual_seed(step)  # what was drawn before does not matter
        again = build(tmp_path, adapter, options)
        again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        resumed, resumed_logs = outcome(again)
        assert resumed_logs == logs, step
        assert resumed.keys() == weights.keys()
        assert all(torch.equal(resumed[name], weights[name]) for name in weights), step
