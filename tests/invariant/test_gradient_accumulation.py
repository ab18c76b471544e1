"""The same optimizer steps, however a batch is cut into micro-batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from genarm_hf import ARMTrainer

from ..conftest import tiny
from ..training.toys import arguments, toy_pairs, word_tokenizer


class _Gradients(TrainerCallback):
    """Keeps a copy of all gradients before each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[list[torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append([p.grad.clone() for p in kwargs["model"].parameters() if p.grad is not None])


def _train(directory: Path, batch: int, accumulation: int, pairs: int, adapter: bool) -> tuple[list, dict, list]:
    peft_config = None
    if adapter:
        from peft import LoraConfig

        peft_config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    args = arguments(
        directory,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-2,
        beta=0.3,
        optim="sgd",
        max_grad_norm=0.0,
        num_train_epochs=2,
        logging_steps=1,
    )
    seen, torch_seed = _Gradients(), torch.get_rng_state()
    torch.manual_seed(0)
    model = tiny("llama").double()  # so that what is left is not rounding
    trainer = ARMTrainer(model, args, toy_pairs(pairs), None, word_tokenizer(), peft_config, callbacks=[seen])
    trainer.train()
    torch.set_rng_state(torch_seed)
    names = ("loss", "rewards/accuracy", "rewards/margin", "logps/chosen", "logps/rejected")
    logs = [[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry]
    return seen.steps, dict(trainer.model.named_parameters()), logs


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("pairs", "batch", "accumulation"),
    [
        (16, 2, 4),
        (13, 3, 3),  # 9 and then 4 pairs a step, the last micro-batch with one: every pair weighs the same
        (12, 2, 4),  # the last step of an epoch has fewer micro-batches
    ],
)
def test_accumulated_micro_batches_equal_one_batch(
    pairs: int, batch: int, accumulation: int, adapter: bool, tmp_path: Path
) -> None:
    if adapter:
        pytest.importorskip("peft")
    whole = _train(tmp_path, batch * accumulation, 1, pairs, adapter)
    cut = _train(tmp_path, batch, accumulation, pairs, adapter)
    assert len(whole[0]) == len(cut[0]) == 2 * -(-pairs // (batch * accumulation))
    for step, other in zip(whole[0], cut[0], strict=True):
        for gradient, accumulated in zip(step, other, strict=True):
            torch.testing.assert_close(accumulated, gradient, rtol=1e-9, atol=1e-12)
    for name, parameter in whole[1].items():
        torch.testing.assert_close(cut[1][name], parameter, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.tensor(cut[2]), torch.tensor(whole[2]), rtol=1e-5, atol=1e-6)
