"""Reading a prompt once, in parts, without full logits: the same gradients as two whole sequences a pair."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genarm_hf import ARMTrainer
from genarm_hf.training.batches import PairCollator
from genarm_hf.training.losses import preference_loss
from genarm_hf.training.pair_forward import Method, PairForward, choose_method

from ..conftest import tiny
from ..training.test_pair_forward import ROWS, reference
from ..training.toys import arguments, toy_pairs, word_tokenizer


def _without_dropout(kind: str, **changes: Any) -> Any:
    return tiny(
        kind, **changes, **({f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")} if kind == "gpt2" else {})
    )


def _trained(kind: str, adapter: bool, checkpointing: bool, attention: str) -> Any:
    model = _without_dropout(kind, attn_implementation=attention).double()
    if adapter:
        from peft import LoraConfig, get_peft_model

        targets = ["c_attn", "c_fc"] if kind == "gpt2" else "all-linear"
        config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
        torch.manual_seed(0)
        model = get_peft_model(model, config).double()
    if checkpointing:
        if adapter:
            model.enable_input_require_grads()
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model.train()


def _gradients(model: Any, logps: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = preference_loss(*logps.unbind(-1), beta=0.3).sum()
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _read(model: Any, rows: list[Any], max_tokens: int | None = None) -> torch.Tensor:
    method = choose_method(model)
    assert method == Method(True, True, None)
    batch = PairCollator(0, True, max_tokens)(rows)
    reader = PairForward(model, method)
    return torch.cat([reader(model, part) for part in batch["parts"]])[batch["order"].argsort()]


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mistral", "gemma"])
def test_gradients_equal_those_of_whole_sequences(
    kind: str, adapter: bool, checkpointing: bool, attention: str
) -> None:
    if adapter:
        pytest.importorskip("peft")
    if (kind, attention) == ("gemma", "sdpa"):
        pytest.skip("Gemma 2 has eager attention only")
    model = _trained(kind, adapter, checkpointing, attention)
    loss, gradients = _gradients(model, reference(model))
    shared_loss, shared = _gradients(model, _read(model, ROWS))
    # double precision, but for what the models themselves compute in single (norms, rotations, softmax)
    torch.testing.assert_close(shared_loss, loss, rtol=1e-5, atol=1e-5)
    assert shared.keys() == gradients.keys() and len(gradients) > 4
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            shared[name], gradient, rtol=1e-4, atol=2e-6 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


ids = st.lists(st.integers(3, 47), min_size=1, max_size=12)
pairs = st.lists(
    st.fixed_dictionaries({"prompt_ids": ids, "chosen_ids": ids, "rejected_ids": ids}), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None)
@given(rows=pairs, kind=st.sampled_from(["llama", "gpt2", "mistral"]), max_tokens=st.none() | st.integers(1, 60))
def test_random_pairs_in_random_parts(rows: list[Any], kind: str, max_tokens: int | None) -> None:
    model = _without_dropout(kind).double().train()
    loss, gradients = _gradients(model, reference(model, rows))
    shared_loss, shared = _gradients(model, _read(model, rows, max_tokens))
    torch.testing.assert_close(shared_loss, loss, rtol=1e-5, atol=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-3, atol=5e-6 * scale + 1e-9)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    "changes", [{"max_tokens_per_batch": 24}, {"share_prompts": False}, {"max_tokens_per_batch": 1}]
)
def test_training_is_the_same(changes: dict[str, Any], adapter: bool, tmp_path: Path) -> None:
    """What is read at once is a matter of memory: the same steps, logs and weights."""

    def train(**options: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
        peft_config = None
        if adapter:
            peft = pytest.importorskip("peft")
            peft_config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        torch.manual_seed(0)
        args = arguments(
            tmp_path,
            learning_rate=1e-2,
            beta=0.3,
            gradient_accumulation_steps=2,
            logging_steps=1,
            optim="sgd",
            **options,
        )
        trainer = ARMTrainer(tiny().double(), args, toy_pairs(26), None, word_tokenizer(), peft_config)
        trainer.train()
        logs = [entry[key] for entry in trainer.state.log_history for key in ("loss", "grad_norm") if "loss" in entry]
        return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}, logs

    weights, logs = train()
    other_weights, other_logs = train(**changes)
    assert len(logs) == 4
    torch.testing.assert_close(torch.tensor(other_logs), torch.tensor(logs), rtol=1e-4, atol=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(other_weights[name], weight, rtol=0, atol=1e-7)
