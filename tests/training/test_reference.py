"""`subtract_reference`: DPO's loss, with the backbone as it was before training as its reference."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genarm_hf import ARMTrainer

from ..conftest import tiny
from .toys import arguments, toy_pairs, word_tokenizer

pytest.importorskip("peft")
LOG_2 = 0.6931472
TOKENIZER = word_tokenizer()


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options)


def trainer_of(directory: Path, model: Any, peft_config: Any = None, n: int = 6, **options: Any) -> ARMTrainer:
    args = arguments(directory, **{"subtract_reference": True, "beta": 0.5} | options)
    return ARMTrainer(model, args, toy_pairs(n), toy_pairs(6, seed=1), TOKENIZER, peft_config)


def changed(model: Any, amount: float = 0.1) -> Any:
    """The model with other values in everything that is trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(amount * torch.randn_like(parameter))
    return model


def plain_logps(model: Any, rows: Any) -> Tensor:
    """Log-probabilities `(rows, 2)`, one text at a time by the model's own logits."""
    both = []
    for row in rows:
        for response in (row["chosen_ids"], row["rejected_ids"]):
            ids = torch.tensor([row["prompt_ids"] + response])
            logprobs = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
            both.append(logprobs[len(row["prompt_ids"]) - 1 :].sum())
    return torch.stack(both).reshape(-1, 2)


@pytest.mark.parametrize("adapter", [False, True])
def test_loss_is_dpos_by_hand(adapter: bool, tmp_path: Path) -> None:
    """From two plain forwards: of the model, and of the model as it was given."""
    model = tiny("llama", initializer_range=0.1)
    before = copy.deepcopy(model)
    trainer = trainer_of(tmp_path, model, lora() if adapter else None, margin=0.3)
    changed(trainer.model)
    rows = trainer.train_dataset
    with torch.no_grad():
        logps, reference = plain_logps(trainer.model, rows), plain_logps(before, rows)
    difference = (logps - reference)[:, 0] - (logps - reference)[:, 1]
    loss, figures = trainer.compute_loss(trainer.model, trainer.data_collator(rows), return_outputs=True)
    assert difference.abs().min() > 1e-3
    assert loss.item() == pytest.approx(-logsigmoid(0.5 * difference - 0.3).mean().item(), abs=1e-5)
    assert torch.allclose(figures[:, 1], (difference > 0).float())
    assert torch.allclose(figures[:, 2], 0.5 * difference, atol=1e-4)
    assert torch.allclose(figures[:, 3:5], logps, atol=1e-4)  # these stay plain


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("config", [None, lora(), lora(modules_to_save=["lm_head"]), lora(lora_dropout=0.5)])
def test_the_first_loss_is_log_2(config: Any, bf16: bool, tmp_path: Path) -> None:
    """Nothing is known yet of any pair, however likely its responses are; a dropout before a zero changes nothing."""
    trainer = trainer_of(tmp_path, tiny("llama", initializer_range=0.1), config, bf16=bf16)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(trainer.train_dataset))
    assert loss.item() == pytest.approx(LOG_2, abs=1e-6)
    loss.backward()
    assert all(parameter.grad is not None for parameter in trainer.model.parameters() if parameter.requires_grad)
