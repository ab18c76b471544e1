"""ARMTrainer: what it accepts, learns, logs, saves and resumes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    TrainingArguments,
)
from transformers.utils import logging

from genarm_hf import ARMTrainer, ARMTrainingArguments, AutoregressiveRewardModel

from ..conftest import VOCAB, tiny
from .toys import DISLIKED, LIKED, arguments, toy_pairs, word_tokenizer

pytest.importorskip("peft")
RESPONSES = ("chosen", "rejected")
# the option was renamed on the way to transformers 6
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(ARMTrainingArguments, name)
)
METRICS = {"rewards/accuracy", "rewards/margin", "logps/chosen", "logps/rejected"}


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    defaults = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return LoraConfig(**defaults | options)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def base(tmp_path: Path, tokenizer: Any) -> PreTrainedModel:
    """A base model as people have them: in a directory, with its tokenizer. It likes all tokens about equally."""
    tiny("llama", initializer_range=0.1).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base")


def train(
    model: Any, directory: Path, tokenizer: Any, n: int = 64, peft_config: Any = None, **options: Any
) -> ARMTrainer:
    args, held_out = arguments(directory, **options), toy_pairs(24, seed=1)
    trainer = ARMTrainer(model, args, toy_pairs(n), held_out, tokenizer, peft_config)
    trainer.train()
    return trainer


def sample(model: Any, tokenizer: Any, **kwargs: Any) -> torch.Tensor:
    inputs = tokenizer(["w3 w4 w5", "w20 w21", "w6"] * 40, return_tensors="pt", padding=True)
    torch.manual_seed(0)
    output = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=4, **kwargs)
    return output[:, inputs["input_ids"].shape[1] :]


# ---------------------------------------------------------------------- learning


@pytest.mark.parametrize("adapter", [False, True])
def test_learns_a_preference_and_guides_by_it(adapter: bool, base: Any, tokenizer: Any, tmp_path: Path) -> None:
    before, options = weights(base), {"beta": 0.5, "learning_rate": 1e-2, "num_train_epochs": 3, "objective": "sevens"}
    model = base if adapter else AutoModelForCausalLM.from_pretrained(base.name_or_path)
    trainer = train(model, tmp_path / "arm", tokenizer, 128, lora() if adapter else None, **options)
    assert trainer.evaluate()["eval_rewards/accuracy"] > 0.95
    trainer.save_model()
    arm = AutoModel.from_pretrained(tmp_path / "arm")
    assert isinstance(arm, AutoregressiveRewardModel)
    assert (arm.config.beta, arm.config.objective, arm.config.adapter is not None) == (0.5, "sevens", adapter)
    plain, guided = sample(base, tokenizer), sample(base, tokenizer, reward_models=[arm], alpha=2.0)
    assert (plain == LIKED).float().mean() < 0.05
    assert (guided == LIKED).float().mean() > 0.1
    assert (guided == LIKED).sum() > 10 * (guided == DISLIKED).sum()
    assert same(weights(base), before)
    live = sample(base, tokenizer, reward_models=[trainer.reward_model], alpha=2.0)
    assert torch.equal(live, guided)


def test_adapter_training_leaves_the_given_model_plain(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    inputs = tokenizer("w3 w4", return_tensors="pt")
    before, logits = weights(base), base(**inputs).logits
    trainer = train(base, tmp_path, tokenizer, 16, lora(), learning_rate=1e-2)
    assert torch.equal(base(**inputs).logits, logits)
    assert same(weights(base), before)
    trained = {parameter.data_ptr() for parameter in trainer.model.parameters()}
    assert {parameter.data_ptr() for parameter in base.parameters()} <= trained  # weights are shared, not copied
    assert not torch.equal(trainer.reward_model(**inputs).logits, logits)


def test_the_adapter_is_drawn_from_the_seed(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    first, second = (train(base, tmp_path, tokenizer, 8, lora()) for _ in range(2))
    assert same(weights(first.model), weights(second.model))


def test_reward_model_is_ready_to_guide(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    trainer = train(base, tmp_path, tokenizer, 16, lora(lora_dropout=0.5), beta=0.2, prompt_template="w3 {prompt}")
    arm = trainer.reward_model
    assert not any(module.training for module in arm.modules())
    assert (arm.config.beta, arm.config.prompt_template) == (0.2, "w3 {prompt}")
    rows = toy_pairs(24, seed=1)
    scores = [arm.score(tokenizer, [row["prompt"] for row in rows], [row[name] for row in rows]) for name in RESPONSES]
    assert np.allclose(trainer.predict(rows).predictions.T, torch.stack(scores).numpy(), atol=1e-4)


# ---------------------------------------------------------------------- what it accepts


@pytest.mark.parametrize("kind", ["model", "peft", "arm", "path", "adapter path", "adapter arm"])
def test_every_kind_of_model(kind: str, base: Any, tokenizer: Any, tmp_path: Path) -> None:
    from peft import get_peft_model

    if "adapter" in kind:
        AutoregressiveRewardModel.from_backbone(get_peft_model(base, lora())).save_pretrained(tmp_path / "arm")
    starts = {
        "model": lambda: base,
        "peft": lambda: get_peft_model(base, lora()),
        "arm": lambda: AutoregressiveRewardModel.from_backbone(base),
        "path": lambda: base.name_or_path,
        "adapter path": lambda: str(tmp_path / "arm"),
        "adapter arm": lambda: AutoModel.from_pretrained(tmp_path / "arm"),
    }
    trainer = ARMTrainer(starts[kind](), arguments(tmp_path, max_steps=2), toy_pairs(16), processing_class=tokenizer)
    before = weights(trainer.model)
    trainer.train()
    changed = [name for name, tensor in weights(trainer.model).items() if not torch.equal(tensor, before[name])]
    assert changed
    assert all("lora_" in name for name in changed) == (kind in ("peft", "adapter path", "adapter arm"))


def test_what_a_reward_model_knew_is_kept(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    arm = AutoregressiveRewardModel.from_backbone(base, alpha=0.7, objective="old", prompt_template="w3 {prompt}")
    trainer = ARMTrainer(arm, arguments(tmp_path, beta=0.3), toy_pairs(8), processing_class=tokenizer)
    config = trainer.reward_model.config
    assert (config.alpha, config.objective, config.prompt_template, config.beta) == (0.7, "old", "w3 {prompt}", 0.3)
    assert trainer.train_dataset[0]["prompt_ids"][:2] == [1, 3]


def test_an_adapter_on_shared_weights_trains_alone(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    train(base, tmp_path / "arm", tokenizer, 16, lora()).save_model()
    fresh = AutoModelForCausalLM.from_pretrained(base.name_or_path)
    before = weights(fresh)
    arm = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=fresh)
    adapter = weights(arm)
    train(arm, tmp_path / "again", tokenizer, 16, learning_rate=1e-2)
    assert same(weights(fresh), before)
    assert not same(weights(arm), adapter)


def test_tokenizer_of_a_path(base: Any, tmp_path: Path) -> None:
    trainer = ARMTrainer(base.name_or_path, arguments(tmp_path), toy_pairs(8))
    assert trainer.train_dataset[0]["prompt_ids"][0] == 1


def test_datasets_of_several_kinds(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = toy_pairs(16)
    tokenized = ARMTrainer(base, arguments(tmp_path), rows, processing_class=tokenizer).train_dataset
    losses = []
    for data, text in ((rows, True), (datasets.Dataset.from_list(rows), True), (tokenized, False)):
        model = AutoModelForCausalLM.from_pretrained(base.name_or_path)
        trainer = ARMTrainer(model, arguments(tmp_path), data, processing_class=tokenizer if text else None)
        losses.append(trainer.train().training_loss)
    assert losses[0] == losses[1] == losses[2]


def _broken() -> Any:
    model = tiny()
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    return model


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": tiny("t5")}, TypeError, "not a causal LM"),
        ({"model": LlamaForSequenceClassification(tiny().config)}, TypeError, "not a causal LM"),
        ({"model": 3}, TypeError, "`model` must be a causal LM.*got int"),
        ({"args": TrainingArguments("out", use_cpu=True)}, TypeError, "`args` must be ARMTrainingArguments"),
        ({"model": tiny(attention_dropout=-1)}, ValueError, "`attention_dropout` .* between 0 and 1, got -1"),
        ({"model": _broken()}, ValueError, "log-probabilities of the model are no finite numbers"),
        ({"processing_class": None}, ValueError, "`train_dataset` holds text, which needs a tokenizer"),
        ({"model": tiny().requires_grad_(False)}, ValueError, "no parameter with `requires_grad`"),
        ({"train_dataset": [{"prompt": "w3"}]}, ValueError, "Row 0 of `train_dataset` has no column 'chosen'"),
        ({"eval_dataset": {"a": [{"prompt": "w3"}]}}, ValueError, r"Row 0 of `eval_dataset\['a'\]` has no column"),
    ],
)
def test_bad_input(change: dict, error: type, message: str, tokenizer: Any, tmp_path: Path) -> None:
    given = {"model": tiny(), "args": arguments(tmp_path), "train_dataset": toy_pairs(8), "processing_class": tokenizer}
    with pytest.raises(error, match=message):
        ARMTrainer(**given | change)


def test_a_second_adapter_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    from peft import get_peft_model

    model = get_peft_model(tiny(), lora())
    with pytest.raises(ValueError, match="already has an adapter"):
        ARMTrainer(model, arguments(tmp_path), toy_pairs(8), None, tokenizer, peft_config=lora())


def test_prompts_are_cut_to_the_models_positions(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny("gpt2", n_positions=12)
    rows = [row | {"prompt": "w3 " * 50} for row in toy_pairs(8)]
    trainer = ARMTrainer(model, arguments(tmp_path), rows, processing_class=tokenizer)
    for row in trainer.train_dataset:
        assert len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) == 12
    trainer.train()


# ---------------------------------------------------------------------- forward and loss


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mistral", "gemma"])
def test_log_probabilities_of_every_architecture(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """Neither the other response, nor the other pairs of a row, nor padding changes anything."""
    trainer = ARMTrainer(tiny(kind), arguments(tmp_path), toy_pairs(6), processing_class=tokenizer)
    batch = trainer.data_collator(trainer.train_dataset)
    logps = trainer.pair_logprobs(trainer.model, batch["parts"][0])[batch["order"].argsort()]
    for row, both in zip(trainer.train_dataset, logps, strict=True):
        for response, logp in zip((row["chosen_ids"], row["rejected_ids"]), both, strict=True):
            ids, start = torch.tensor([row["prompt_ids"] + response]), len(row["prompt_ids"])
            logprobs = trainer.model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
            assert logp.item() == pytest.approx(logprobs[start - 1 :].sum().item(), abs=2e-4)


def test_dropout_of_the_backbone_is_off_and_that_of_the_adapter_on(tokenizer: Any, tmp_path: Path) -> None:
    def rates(**options: Any) -> set[float]:
        model = tiny("gpt2", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
        config = lora(lora_dropout=0.3, fan_in_fan_out=True, target_modules=["c_attn"])
        trainer = ARMTrainer(model, arguments(tmp_path, **options), toy_pairs(8), None, tokenizer, config)
        return {module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)}

    assert rates() == {0.0, 0.3}
    assert rates(disable_dropout=False) == {0.1, 0.3}


@pytest.mark.parametrize("tokenized", [False, True])
@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_batches_by_length(strategy: str, tokenized: bool, tokenizer: Any, tmp_path: Path) -> None:
    """Lists too, and rows that came as ids: the samplers of the Trainer find the lengths."""
    pytest.importorskip("datasets")
    rows: Any = [row | {"prompt": "w3 " * (2 + place % 40)} for place, row in enumerate(toy_pairs(320))]
    if tokenized:
        rows = [{f"{name}_ids": [5] * len(row[name].split()) for name in ("prompt", *RESPONSES)} for row in rows]

    def spread(**options: Any) -> float:
        """Mean difference of the longest and the shortest pair of a batch."""
        trainer = ARMTrainer(tiny(), arguments(tmp_path, **options), rows, processing_class=tokenizer)
        trainer.data_collator = lambda batch: {"sizes": torch.tensor([len(row["prompt_ids"]) for row in batch])}
        sizes = [batch["sizes"] for batch in trainer.get_train_dataloader()]
        assert sum(map(len, sizes)) == 320
        return sum(int(size.max() - size.min()) for size in sizes) / len(sizes)

    if strategy == "group_by_length":
        assert spread(train_sampling_strategy=strategy) < 0.5 * spread()
    trainer = ARMTrainer(
        tiny(), arguments(tmp_path, train_sampling_strategy=strategy, max_steps=2), rows, processing_class=tokenizer
    )
    trainer.train()


def test_weights_and_scores_of_pairs(tokenizer: Any, tmp_path: Path) -> None:
    rows = [row | {"weight": 2.0 * (place % 2), "score_chosen": 4.0, "score_rejected": float(place)}
            for place, row in enumerate(toy_pairs(4))]  # fmt: skip
    args = arguments(tmp_path, beta=0.1, score_margin=0.5)
    trainer = ARMTrainer(tiny(), args, rows, processing_class=tokenizer)
    batch = trainer.data_collator(trainer.train_dataset)
    chosen, rejected = trainer.pair_logprobs(trainer.model, batch["parts"][0])[batch["order"].argsort()].unbind(-1)
    losses = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected) - 0.5 * (4 - torch.arange(4)))
    assert torch.allclose(trainer.compute_loss(trainer.model, batch), (losses[1] + losses[3]) * 2 / 4)


@pytest.mark.parametrize(("options", "expected"), [
    ({"loss_type": "hinge"}, lambda c, r, n, m: torch.relu(1 - 0.1 * (c - r))),
    ({"length_normalize": True}, lambda c, r, n, m: -torch.nn.functional.logsigmoid(0.1 * (c / n - r / m))),
])  # fmt: skip
def test_other_losses(options: dict[str, Any], expected: Any, tokenizer: Any, tmp_path: Path) -> None:
    trainer = ARMTrainer(tiny(), arguments(tmp_path, beta=0.1, **options), toy_pairs(4), processing_class=tokenizer)
    batch = trainer.data_collator(trainer.train_dataset)
    part = batch["parts"][0]
    logps, lengths = trainer.pair_logprobs(trainer.model, part), part["response_lengths"]
    found = trainer.compute_loss(trainer.model, batch)
    assert torch.allclose(found, expected(*logps.unbind(-1), *lengths.unbind(-1)).mean())


def test_several_gpus_in_one_process_are_not_used(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`DataParallel` would cut the rows of a batch apart, which hold several pairs."""
    args = arguments(tmp_path)
    args._n_gpu = 2
    logging.enable_propagation()
    with caplog.at_level("WARNING"):
        trainer = ARMTrainer(tiny(), args, toy_pairs(8), processing_class=tokenizer)
    logging.disable_propagation()
    assert trainer.args.n_gpu == 1 and "torchrun --nproc_per_node 2" in caplog.text


def test_models_that_cannot_share_prompts_say_so_once(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4)
    logging.enable_propagation()
    with caplog.at_level("WARNING"):
        trainer = ARMTrainer(BloomForCausalLM(config), arguments(tmp_path), toy_pairs(8), processing_class=tokenizer)
        trainer.train()
    logging.disable_propagation()
    assert [record.message for record in caplog.records if "Prompts are read twice" in record.message] == [
        "Prompts are read twice, which takes more time and memory: it is recurrent, or does not take positions."
    ]


def test_padding_needs_no_token_of_the_model(tmp_path: Path) -> None:
    """A padding token that was added to the tokenizer alone, as is common with Llama."""
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<added>"})
    assert tokenizer.pad_token_id == VOCAB
    ARMTrainer(tiny(), arguments(tmp_path), toy_pairs(9), processing_class=tokenizer).train()


def test_ids_that_the_model_lacks_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt_ids": [1, 5], "chosen_ids": [VOCAB], "rejected_ids": [6]}]
    with pytest.raises(
        ValueError, match=f"`train_dataset` has the token id {VOCAB}, and the model knows only ids below"
    ):
        ARMTrainer(tiny(), arguments(tmp_path), rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_dropout_by_functions_is_off_too(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(vocab_size=VOCAB, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4)
    model = tiny(attention_dropout=0.3) if kind == "llama" else OPTForCausalLM(config)
    trainer = ARMTrainer(model, arguments(tmp_path), toy_pairs(8), processing_class=tokenizer)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(trainer.model.train()(ids).logits, trainer.model(ids).logits)


def test_deepspeed_takes_one_step_a_batch(tokenizer: Any, tmp_path: Path) -> None:
    """Its engine, as accelerate wraps it, steps at the end of every backward that it is not told to accumulate."""
    boundaries: list[bool] = []
    args = arguments(tmp_path, max_tokens_per_batch=1, max_steps=2, gradient_accumulation_steps=2)
    trainer = ARMTrainer(tiny(), args, toy_pairs(32), processing_class=tokenizer)

    def backward(loss: torch.Tensor, **kwargs: Any) -> None:
        loss.backward()
        boundaries.append(trainer.accelerator.sync_gradients)

    trainer.accelerator.backward = backward
    trainer.train()
    assert boundaries == ([False] * 15 + [True]) * 2


def test_margin_of_options_and_rows(tokenizer: Any, tmp_path: Path) -> None:
    rows = [row | {"margin": float(i)} for i, row in enumerate(toy_pairs(4))]
    trainer = ARMTrainer(tiny(), arguments(tmp_path, margin=0.5, beta=0.1), rows, processing_class=tokenizer)
    batch = trainer.data_collator(trainer.train_dataset)
    chosen, rejected = trainer.pair_logprobs(trainer.model, batch["parts"][0])[batch["order"].argsort()].unbind(-1)
    expected = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected) - 0.5 - torch.arange(4)).mean()
    assert torch.allclose(trainer.compute_loss(trainer.model, batch), expected)


@pytest.mark.parametrize("adapter", [False, True])
def test_gradient_checkpointing_changes_nothing(adapter: bool, base: Any, tokenizer: Any, tmp_path: Path) -> None:
    results = []
    for checkpointing in (False, True):
        model = AutoModelForCausalLM.from_pretrained(base.name_or_path)
        options = {"learning_rate": 1e-2, CHECKPOINTING: checkpointing}
        results.append(weights(train(model, tmp_path, tokenizer, 16, lora() if adapter else None, **options).model))
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-6) for name in results[0])


# ---------------------------------------------------------------------- what is logged


def test_logged_averages_are_exact(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    """With learning rate 0 every window's averages are plain averages over its pairs."""
    steps = {"logging_steps": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    trainer = train(base, tmp_path, tokenizer, 12, learning_rate=0.0, **steps)
    (logs,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    metrics = trainer.evaluate(toy_pairs(12))
    for name in ("loss", *METRICS):
        assert logs[name] == pytest.approx(metrics[f"eval_{name}"], rel=1e-4, abs=1e-6), name


def test_evaluation_counts_every_pair_once(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    """11 pairs in batches of 4: the last, smaller batch weighs less."""
    rows = toy_pairs(11)
    trainer = ARMTrainer(base, arguments(tmp_path, per_device_eval_batch_size=4), None, rows, tokenizer)
    metrics = trainer.evaluate()
    arm = trainer.reward_model
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    chosen, rejected = (arm.score(tokenizer, columns["prompt"], columns[name]) for name in ("chosen", "rejected"))
    expected = {
        "eval_loss": -torch.nn.functional.logsigmoid(0.05 * (chosen - rejected)).mean(),
        "eval_rewards/accuracy": (chosen > rejected).float().mean(),
        "eval_rewards/margin": 0.05 * (chosen - rejected).mean(),
        "eval_logps/chosen": chosen.mean(),
        "eval_logps/rejected": rejected.mean(),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_several_evaluation_sets_and_own_metrics(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    def accuracy(prediction: Any) -> dict[str, float]:
        return {"own": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    sets = {"a": toy_pairs(10, seed=1), "b": toy_pairs(7, seed=2)}
    trainer = ARMTrainer(base, arguments(tmp_path), None, sets, tokenizer, compute_metrics=accuracy)
    metrics = trainer.evaluate()
    for name in sets:
        assert metrics[f"eval_{name}_own"] == pytest.approx(metrics[f"eval_{name}_rewards/accuracy"])


# ---------------------------------------------------------------------- saving and resuming


@pytest.mark.parametrize("adapter", [False, True])
def test_checkpoints_are_repositories_and_training_resumes_from_them(
    adapter: bool, base: Any, tokenizer: Any, tmp_path: Path
) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "learning_rate": 1e-2, "logging_steps": 1}

    def run(**resume: Any) -> tuple[dict, list]:
        model = AutoModelForCausalLM.from_pretrained(base.name_or_path)
        config = lora(lora_dropout=0.2) if adapter else None
        trainer = ARMTrainer(model, arguments(tmp_path / "run", **options), toy_pairs(40), None, tokenizer, config)
        trainer.train(**resume)
        names = {"loss", "grad_norm", *METRICS}
        logs = [{name: entry[name] for name in names & entry.keys()} for entry in trainer.state.log_history]
        return weights(trainer.model), logs[:6]

    whole, resumed = run(), run(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert same(whole[0], resumed[0])
    assert whole[1] == resumed[1]
    arm = AutoModel.from_pretrained(tmp_path / "run" / "checkpoint-6")
    assert (arm.config.adapter is not None) == adapter
    ids = torch.tensor([[1, 3, 4]])
    trainer_weights = weights(arm.backbone)
    assert same(trainer_weights, whole[0])
    assert arm(ids).logits.shape == (1, 3, 48)
    assert tokenizer.get_vocab() == type(tokenizer).from_pretrained(tmp_path / "run" / "checkpoint-6").get_vocab()


@pytest.mark.parametrize("adapter", [False, True])
def test_best_model_is_loaded_at_the_end(adapter: bool, base: Any, tokenizer: Any, tmp_path: Path) -> None:
    schedule = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "rewards/accuracy", "greater_is_better": False}
    trainer = train(base, tmp_path, tokenizer, 32, lora() if adapter else None, learning_rate=1e-2, **schedule, **best)
    assert trainer.state.best_model_checkpoint is not None
    arm = AutoModel.from_pretrained(trainer.state.best_model_checkpoint)
    assert same(weights(arm.backbone), weights(trainer.model))


def test_saved_configuration_is_that_of_the_given_model(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    base.config.use_cache = True
    train(base, tmp_path / "arm", tokenizer, 16).save_model()
    config = json.loads((tmp_path / "arm" / "config.json").read_text())
    assert config["model_type"] == "genarm"
    assert config["text_config"]["use_cache"] is True
    assert config["beta"] == 0.05
    names = {path.name for path in (tmp_path / "arm").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)


def test_model_card_of_the_hub(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    trainer = train(base, tmp_path / "arm", tokenizer, 16, objective="kind")
    trainer.hub_model_id = "org/kind-arm"
    trainer.create_model_card()
    card = (tmp_path / "arm" / "README.md").read_text()
    assert "library_name: genarm-hf" in card
    assert "org/kind-arm" in card


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_on_a_gpu_is_training_on_a_cpu(dtype: torch.dtype, tokenizer: Any, tmp_path: Path) -> None:
    losses = []
    for use_cpu in (True, False):
        args = arguments(tmp_path, use_cpu=use_cpu, learning_rate=1e-3, logging_steps=1, max_tokens_per_batch=40)
        trainer = ARMTrainer(tiny().to(dtype), args, toy_pairs(32), processing_class=tokenizer)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if dtype == torch.float32 else 0.1)
