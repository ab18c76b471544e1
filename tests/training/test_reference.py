"""`subtract_reference`: DPO's loss, with the backbone as it was before training as its reference."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from genarm_hf import ARMTrainer
from genarm_hf.model_card import CARD
from genarm_hf.training.losses import preference_loss

from ..conftest import tiny
from ..reward_models import LOADS_ADAPTERS
from .test_trainer import CHECKPOINTING
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


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")  # of the oldest PEFT
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


@settings(max_examples=8, deadline=None)
@given(
    adapter=st.booleans(),
    margin=st.sampled_from([0.0, -0.7, 1.5]),
    length_normalize=st.booleans(),
    share_prompts=st.booleans(),
    max_tokens=st.sampled_from([None, 20]),
)
def test_gradients_are_those_of_the_formula(
    adapter: bool,
    margin: float,
    length_normalize: bool,
    share_prompts: bool,
    max_tokens: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = tiny("llama", initializer_range=0.1)
    before, options = copy.deepcopy(model), {"length_normalize": length_normalize, "share_prompts": share_prompts}
    options |= {"margin": margin, "max_tokens_per_batch": max_tokens}
    trainer = trainer_of(tmp_path_factory.mktemp("arm"), model, lora() if adapter else None, **options)
    changed(trainer.model)
    rows = trainer.train_dataset
    rewards = plain_logps(trainer.model, rows) - plain_logps(before, rows).detach()
    if length_normalize:
        rewards = rewards / torch.tensor([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in rows])
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    loss = -logsigmoid(0.5 * (rewards[:, 0] - rewards[:, 1]) - margin).mean()
    expected = torch.autograd.grad(loss, trained)
    found = torch.autograd.grad(trainer.compute_loss(trainer.model, trainer.data_collator(rows)), trained)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-5)


def test_steps_are_those_of_trl(tmp_path: Path) -> None:
    """The same weights after some steps on the same pairs."""
    pytest.importorskip("trl")
    from genarm_hf.baselines import train_dpo

    pairs, model = toy_pairs(6), tiny("llama", initializer_range=0.1)
    options: dict[str, Any] = {"learning_rate": 1.0, "max_steps": 3, "optim": "sgd", "lr_scheduler_type": "constant"}
    theirs = train_dpo(copy.deepcopy(model), TOKENIZER, pairs, beta=0.5, batch_size=6, **options).state_dict()
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(tmp_path, model, **options)
    trainer.train()
    assert any((tensor - before[name]).abs().max() > 1e-2 for name, tensor in theirs.items())
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


# ---------------------------------------------------------------------- what the reference is


@pytest.mark.parametrize("adapter", [False, True])
def test_the_reference_stays_what_it_was(adapter: bool, tmp_path: Path) -> None:
    """Training moves the model alone, learns from what it logs, and puts nothing else into what it trains or saves."""
    options = {"learning_rate": 1e-2, "num_train_epochs": 4, "logging_steps": 1}
    trainer = trainer_of(tmp_path, tiny("llama", initializer_range=0.1), lora() if adapter else None, 16, **options)
    part, names = trainer.data_collator(trainer.train_dataset)["parts"][0], set(trainer.model.state_dict())
    before, reference = (read(trainer.model, part) for read in (trainer.pair_logprobs, trainer.reference_logprobs))
    flags = [parameter.requires_grad for parameter in trainer.model.parameters()]
    assert torch.allclose(before, reference, atol=1e-5)
    trainer.train()
    assert [parameter.requires_grad for parameter in trainer.model.parameters()] == flags
    assert torch.equal(trainer.reference_logprobs(trainer.model, part), reference)
    assert not torch.allclose(trainer.pair_logprobs(trainer.model, part), before, atol=0.1)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[0] == pytest.approx(LOG_2, abs=1e-6) and losses[-1] < 0.9 * losses[0]
    assert set(trainer.model.state_dict()) == names
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in trainer.model.parameters() if parameter.requires_grad}


def test_going_on_from_a_checkpoint_keeps_the_reference(tmp_path: Path) -> None:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2}
    model = tiny("llama", initializer_range=0.1)
    before = copy.deepcopy(model)
    whole = trainer_of(tmp_path, copy.deepcopy(model), n=16, **options)
    whole.train()
    again = trainer_of(tmp_path, model, n=16, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name
    rows = again.train_dataset
    batch = again.data_collator(rows)
    found = torch.cat([again.reference_logprobs(again.model, part) for part in batch["parts"]])
    assert torch.allclose(found[batch["order"].argsort()], plain_logps(before, rows), atol=1e-4)


@pytest.mark.parametrize("kind", ["peft", pytest.param("transformers", marks=LOADS_ADAPTERS)])
def test_an_adapter_that_is_trained_further_is_not_in_its_reference(kind: str, tmp_path: Path) -> None:
    from peft import get_peft_model

    model: Any = tiny("llama", initializer_range=0.1)
    before = copy.deepcopy(model)
    if kind == "peft":
        model = get_peft_model(model, lora())
    else:
        model.add_adapter(lora())
    trainer = trainer_of(tmp_path, changed(model))
    rows = trainer.train_dataset
    batch = trainer.data_collator(rows)
    (part,), places = batch["parts"], batch["order"].argsort()
    assert torch.allclose(trainer.reference_logprobs(model, part)[places], plain_logps(before, rows), atol=1e-4)
    assert torch.allclose(trainer.pair_logprobs(model, part)[places], plain_logps(model, rows), atol=1e-4)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_reference_has_no_dropout(adapter: bool, tmp_path: Path) -> None:
    model = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    config = lora(fan_in_fan_out=True, target_modules=["c_attn"]) if adapter else None
    trainer = trainer_of(tmp_path, model, config, disable_dropout=False)
    part = trainer.data_collator(trainer.train_dataset)["parts"][0]
    trainer.model.train()
    first, second = (trainer.reference_logprobs(trainer.model, part) for _ in range(2))
    assert torch.equal(first, second) and trainer.model.training
    assert not torch.equal(trainer.pair_logprobs(trainer.model, part), trainer.pair_logprobs(trainer.model, part))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_that_are_computed_again(reentrant: bool, tmp_path: Path) -> None:
    """By then the adapter is back."""
    found = []
    for options in ({}, {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}}):
        model = tiny("llama", initializer_range=0.1)
        trainer = trainer_of(tmp_path, model, lora(), max_steps=3, learning_rate=1e-2, **options)
        trainer.train()
        found.append(trainer.model.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-4, atol=1e-5, msg=name)


# ---------------------------------------------------------------------- what is told, what is refused


def test_off_by_default(tmp_path: Path) -> None:
    """No reference is read, and the loss is the paper's to the last bit."""
    assert arguments(tmp_path).subtract_reference is False
    trainer = trainer_of(tmp_path, tiny(), subtract_reference=False)
    batch = trainer.data_collator(trainer.train_dataset)
    part = batch["parts"][0]
    assert trainer.reference_logprobs(trainer.model, part) is None
    expected = preference_loss(*trainer.pair_logprobs(trainer.model, part).unbind(-1), 0.5).mean()
    assert torch.equal(trainer.compute_loss(trainer.model, batch), expected)


@pytest.mark.parametrize("length_normalize", [False, True])
def test_held_out_pairs_are_judged_by_what_is_trained_on(length_normalize: bool, tmp_path: Path) -> None:
    options = {"length_normalize": length_normalize, "objective": "sevens"}
    trainer = trainer_of(tmp_path, tiny("llama", initializer_range=0.1), lora(), **options)
    before = trainer.predict(trainer.eval_dataset)
    assert before.metrics["test_rewards/accuracy"] == 0.5 and before.metrics["test_rewards/margin"] == 0  # all ties
    changed(trainer.model)
    after = trainer.predict(trainer.eval_dataset)
    rows = trainer.eval_dataset
    lengths = torch.tensor([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in rows])
    difference = torch.tensor(after.predictions - before.predictions) / (lengths if length_normalize else 1)
    chosen, rejected = difference.unbind(-1)
    assert trainer.held_out is not None
    for accuracy in (trainer.held_out.accuracy.value, after.metrics["test_rewards/accuracy"]):
        assert accuracy == pytest.approx((chosen > rejected).float().mean().item())
    assert trainer.held_out.margins.mean == pytest.approx((chosen - rejected).mean().item(), abs=1e-4)
    assert after.metrics["test_logps/chosen"] == pytest.approx(after.predictions[:, 0].mean(), abs=1e-4)
    trainer.save_model()
    card = (tmp_path / CARD).read_text()
    assert "subtract_reference `True`" in card and "less those of the base before training" in card


def test_cards_of_other_trainings_do_not_speak_of_it(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, tiny(), lora(), subtract_reference=False)
    trainer.evaluate()
    trainer.save_model()
    card = (tmp_path / CARD).read_text()
    assert "Held-out preferences" in card and "subtract_reference" not in card and "less those" not in card


@pytest.mark.parametrize("kind", ["FSDP", "DeepSpeed"])
@pytest.mark.parametrize("launched", [False, True])
def test_all_weights_in_shards_are_refused(
    kind: str, launched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = arguments(tmp_path, subtract_reference=True)
    if launched:
        monkeypatch.setenv(f"ACCELERATE_USE_{kind.upper()}", "true")
    else:
        monkeypatch.setattr(args, kind.lower(), {"zero_optimization": {"stage": 3}})
    with pytest.raises(ValueError, match=f"`subtract_reference` .* got True with {kind}. Train an adapter: pass `peft"):
        ARMTrainer(tiny(), args, [{"prompt": "a row that nobody looks at"}], None, TOKENIZER)


@pytest.mark.parametrize("how", ["biases", "unfrozen"])
def test_a_base_that_moves_under_its_adapter_is_refused(how: str, tmp_path: Path) -> None:
    from peft import get_peft_model

    if how == "biases":
        model: Any = tiny("gpt2")
        config = lora(fan_in_fan_out=True, target_modules=["c_attn"], bias="all")
    else:
        model, config = get_peft_model(tiny(), lora()), None
        model.get_base_model().model.norm.weight.requires_grad_(True)
    name = {"biases": "bias'", "unfrozen": "model.norm.weight'"}[how]
    with pytest.raises(ValueError, match=rf"the base must not change; got True, and \d+ .*such as '.*{name}"):
        trainer_of(tmp_path, model, config)
