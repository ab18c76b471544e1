"""Training baselines: two steps of plain gradient descent against the same steps on losses written by hand."""

from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from genarm_hf.baselines import train_dpo, train_sft, train_simpo

from ..conftest import prompts, tiny
from ..decoding.conftest import tokenizer  # noqa: F401 - a fixture

pytest.importorskip("trl")
peft = pytest.importorskip("peft")

RATE = 0.05
PAIRS = [
    {"prompt": "abc", "chosen": "defgh", "rejected": "ij"},
    {"prompt": "d", "chosen": "kl", "rejected": "mnopqr"},
]
# ids of the letters in the fixture's vocabulary, and the end of sequence: no BOS, which its tokenizer does not add
IDS = {letter: 3 + place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
PLAIN = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "weight_decay": 0.0}
SETTINGS: dict[str, Any] = PLAIN | {"learning_rate": RATE, "epochs": 2, "batch_size": 2}


def logps(model: Any, row: dict[str, str], name: str) -> torch.Tensor:
    """Log-probabilities `(tokens,)` of a response and its end."""
    prompt, response = [IDS[x] for x in row["prompt"]], [*(IDS[x] for x in row[name]), 2]
    ids = torch.tensor([[*prompt, *response]])
    logprobs = model(ids).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(-1, ids[0, 1:, None])[-len(response) :, 0]


def sft_loss(model: Any, reference: Any) -> torch.Tensor:
    return -torch.cat([logps(model, row, "chosen") for row in PAIRS]).mean()


def dpo_loss(model: Any, reference: Any) -> torch.Tensor:
    def ratio(row: dict[str, str], name: str) -> torch.Tensor:
        return logps(model, row, name).sum() - logps(reference, row, name).sum().detach()

    return -torch.stack([logsigmoid(0.5 * (ratio(row, "chosen") - ratio(row, "rejected"))) for row in PAIRS]).mean()


def simpo_loss(model: Any, reference: Any) -> torch.Tensor:
    margins = [logps(model, row, "chosen").mean() - logps(model, row, "rejected").mean() for row in PAIRS]
    return -torch.stack([logsigmoid(2.5 * margin - 0.8) for margin in margins]).mean()


CASES: dict[str, tuple[Any, Any, dict[str, float]]] = {
    "sft": (train_sft, sft_loss, {}),
    "dpo": (train_dpo, dpo_loss, {"beta": 0.5}),
    "simpo": (train_simpo, simpo_loss, {"beta": 2.5, "gamma": 0.8}),
}


@pytest.mark.parametrize("name", CASES)
def test_two_steps_are_those_of_the_paper(name: str, tokenizer: Any) -> None:  # noqa: F811
    train, loss, constants = CASES[name]
    model, expected, reference = tiny("llama"), tiny("llama").train(), tiny("llama")
    for _ in range(2):
        grads = torch.autograd.grad(loss(expected, reference), list(expected.parameters()))
        for parameter, grad in zip(expected.parameters(), grads, strict=True):
            parameter.data -= RATE * grad
    trained = train(model, tokenizer, PAIRS, **constants, **SETTINGS)
    assert trained is model and not trained.training
    moved = 0.0
    for (where, found), wanted, start in zip(
        trained.named_parameters(), expected.parameters(), reference.parameters(), strict=True
    ):
        torch.testing.assert_close(found, wanted, msg=where, atol=2e-5, rtol=1e-4)
        moved += (wanted - start).detach().abs().max().item()
    assert moved > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_leaves_the_model_as_it_was(name: str, tokenizer: Any, tmp_path: Any, capsys: Any) -> None:  # noqa: F811
    train, _, constants = CASES[name]
    plain, model = tiny("llama"), tiny("llama")
    forward, configs = model.forward, (model.config.to_dict(), model.generation_config.to_dict())
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    folder = str(tmp_path / "out")
    capsys.readouterr()
    trained = train(model, tokenizer, PAIRS, peft_config=lora, output_dir=folder, epochs=2, batch_size=1, **constants)
    assert capsys.readouterr().out == ""
    assert isinstance(trained, peft.PeftModel) and not trained.training
    ids = prompts(2)["input_ids"]
    with torch.no_grad(), trained.disable_adapter():
        torch.testing.assert_close(trained(ids).logits, plain(ids).logits)
    with torch.no_grad():
        assert not torch.allclose(trained(ids).logits, plain(ids).logits, atol=1e-4)
        loaded = peft.PeftModel.from_pretrained(tiny("llama"), folder).eval()
        torch.testing.assert_close(loaded(ids).logits, trained(ids).logits)
    assert model.forward == forward and (model.config.to_dict(), model.generation_config.to_dict()) == configs
    guided = tiny("llama").generate(**prompts(1), reward_models=[trained], alpha=0.5, max_new_tokens=3)
    assert guided.shape[1] > 6


def test_the_same_seed_is_the_same_model(tokenizer: Any) -> None:  # noqa: F811
    def weights(seed: int) -> torch.Tensor:
        lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        trained = train_simpo(tiny("llama"), tokenizer, PAIRS * 3, peft_config=lora, seed=seed, batch_size=2)
        return torch.cat([p.flatten() for name, p in trained.named_parameters() if "lora_" in name])

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))
