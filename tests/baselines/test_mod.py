"""Multi-objective decoding against its closed form, computed anew at every token."""

import pytest
import torch
from transformers import set_seed

from genarm_hf.baselines.mod import mixture, mod

from ..conftest import EOS, PAD, prompts, tiny
from ..decoding.reference import next_logits
from ..decoding.test_implicit import adapted

ROWS = torch.tensor([[0.3, 0.7], [1.0, 0.0]])


def closed_form(tuned, weights, ids, mask):
    """`log softmax(sum_i w_i log pi_i)` of the next token, one row a trade-off."""
    scores = [next_logits(model, ids, mask)[:, 0].log_softmax(-1) for model in tuned]
    return sum(weights[:, i, None] * score for i, score in enumerate(scores)).log_softmax(-1)


def test_the_mixture_is_the_closed_form() -> None:
    base, tuned = tiny("llama"), [tiny("llama", seed=1), tiny("gpt2", seed=2)]
    prompt = prompts(2, 7)
    expected = closed_form(tuned, ROWS, *prompt.values())
    with torch.no_grad():
        logprobs = mixture(base, tuned, ROWS)(**prompt, return_logprobs=True).logits[:, -1]
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=1e-4)


def test_greedy_decoding_is_the_closed_forms() -> None:
    base, tuned = tiny("llama"), [tiny("llama", seed=1), tiny("gpt2", seed=2)]
    prompt = prompts(2, 7, padded=True)
    ids, mask = prompt.values()
    done = torch.zeros(2, dtype=torch.bool)
    for _ in range(10):
        chosen = torch.where(done, PAD, closed_form(tuned, ROWS, ids, mask).argmax(-1))
        done |= chosen == EOS
        ids, mask = torch.cat([ids, chosen[:, None]], 1), torch.nn.functional.pad(mask, (0, 1), value=1)
    output = mod(base, tuned, ROWS, **prompt, max_new_tokens=10, do_sample=False)
    assert torch.equal(output, ids[:, : output.shape[1]])


def test_weight_one_is_that_model() -> None:
    base, tuned = tiny("llama"), [tiny("llama", seed=1), tiny("gpt2", seed=2)]
    settings = {"max_new_tokens": 8, "do_sample": True, "top_k": 0}
    set_seed(0)
    expected = tuned[1].generate(**prompts(2), **settings)
    set_seed(0)
    assert torch.equal(mod(base, tuned, [0.0, 1.0], **prompts(2), **settings), expected)


def test_adapters_go_through_the_references_pass() -> None:
    from genarm_hf.adapters import share_weights

    base = tiny("llama")
    tuned = [adapted(share_weights(base), seed) for seed in (1, 2)]
    prompt = prompts(2, 7, padded=True)
    expected = closed_form(tuned, ROWS, *prompt.values())
    guided = mixture(base, tuned, ROWS)
    assert guided._guidance.shared_with(base).streams == 3
    output = guided.generate(
        **prompt, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    torch.testing.assert_close(output.logits[0].log_softmax(-1), expected, atol=1e-4, rtol=1e-4)


def test_a_weight_for_each_model() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) for the 2 reward model"):
        mod(tiny("llama"), [tiny("gpt2"), tiny("gpt2", seed=1)], [1.0], prompts(1)["input_ids"])
