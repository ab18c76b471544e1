"""Rows that leave the batch when they have ended say what they would have said in it."""

from itertools import product

import pytest
import torch

from genarm_hf.adapters import share_weights
from genarm_hf.evaluation.systems import encode, step_logprobs
from genarm_hf.reproduce.lab import Lab
from genarm_hf.reproduce.models import lora
from genarm_hf.reproduce.stages import generate_by_stages

peft = pytest.importorskip("peft")

ALPHAS = {
    "all sorts": [[0.0, 0.5], [0.5, 0.0], [1.0, 1.0], [0.25, 0.0]] * 2,
    "one reward model is done early": [[0.5, 0.0], [0.5, 0.5]] + [[0.0, 0.0], [0.5, 0.0]] * 3,
    "all are": [[0.0, 0.0], [0.5, 0.5]] + [[0.0, 0.0]] * 6,
}


def slightly_tuned(base, seed):
    torch.manual_seed(seed)
    arm = peft.get_peft_model(share_weights(base), lora(2))
    for name, weight in arm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.03)
    return arm.eval()


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path, fast=True)


@pytest.mark.parametrize(
    ("guided", "alphas"), [("", "all sorts"), *product(["in one pass", "in passes of their own"], ALPHAS)]
)
def test_stages_equal_one_call(lab, guided, alphas):
    """Greedily, at lengths of which some reach the limit; every row with alphas of its own."""

    def generate(alpha, **kwargs):
        widths.append(len(kwargs["input_ids"]))
        active.append(alpha.any(0).sum().item())
        own = {"reward_models": arms, "alpha": alpha, "share_backbone": guided == "in one pass"} if guided else {}
        return lab.strong.generate(**own, **kwargs)

    widths, active, alpha = [], [], torch.tensor(ALPHAS[alphas])
    arms = [slightly_tuned(lab.strong, seed) for seed in (1, 2)]
    inputs, end = encode(lab.tokenizer, lab.prompts[:8]), lab.tokenizer.eos_token_id
    options = {"do_sample": False, "max_new_tokens": 50}
    whole = generate(alpha, **inputs, **options, output_scores=True, return_dict_in_generate=True)
    staged = generate_by_stages(generate, inputs, end, alpha, **options)
    ids = whole.sequences[:, inputs["input_ids"].shape[1] :]
    lasting = (ids == end).cumsum(1) - (ids == end).long() == 0
    assert len(set(lasting.sum(1).tolist())) > 3 and lasting[:, -1].any() and min(widths) < 8
    assert active[-1] == {"all sorts": 2, "one reward model is done early": 1, "all are": 0}[alphas]
    assert torch.equal(staged.sequences[:, -ids.shape[1] :][lasting], ids[lasting])
    own, other = (step_logprobs(output.scores, ids) for output in (whole, staged))
    torch.testing.assert_close(other[lasting], own[lasting], atol=1e-3, rtol=0)
