"""Ready-made systems reply as `generate()` does, from their seed alone."""

import json

import pytest
import torch

import genarm_hf
from genarm_hf import playground
from genarm_hf.evaluation import from_decoder, guided, log_ratios, reply_logprobs, run
from genarm_hf.evaluation.runner import batch_seed
from genarm_hf.evaluation.systems import encode

from ..conftest import tiny

SAMPLING = {"do_sample": True, "top_k": 0, "max_new_tokens": 6}
PROMPTS = playground.prompts(3, seed=1)


@pytest.fixture(scope="module")
def tokenizer():
    return playground.load_tokenizer()


@pytest.fixture(scope="module")
def base(tokenizer):
    return tiny(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def arm(tokenizer):
    return tiny(seed=1, vocab_size=len(tokenizer))


def expected(model, tokenizer, seed, **arguments):
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sequences = model.generate(**inputs, **SAMPLING, **arguments)
    return tokenizer.batch_decode(sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def texts(samples):
    return [sample["reply"] for sample in samples]


def test_guided_replies_are_those_of_generate(base, arm, tokenizer):
    system = guided(base, tokenizer, [arm], alpha=0.7, **SAMPLING)
    state = torch.get_rng_state()
    first = system(PROMPTS, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert texts(first) == expected(base, tokenizer, 5, reward_models=[arm], alpha=0.7)
    assert system(PROMPTS, 5) == first != system(PROMPTS, 6)
    assert texts(guided(base, tokenizer, **SAMPLING)(PROMPTS, 5)) == expected(base, tokenizer, 5)


def test_rows_may_have_an_alpha_of_their_own(base, arm, tokenizer, tmp_path):
    system = guided(base, tokenizer, arm, **SAMPLING)
    rows = [{"prompt": prompt, "alpha": alpha} for prompt, alpha in zip(PROMPTS, (0.0, 0.5, 2.0), strict=True)]
    lines = run(system, rows, tmp_path / "out.jsonl", name="guided", columns=["alpha"])
    alphas = torch.tensor([[0.0], [0.5], [2.0]])
    wanted = expected(base, tokenizer, batch_seed(0, 0, [0, 1, 2]), reward_models=[arm], alpha=alphas)
    assert texts(lines) == wanted
    assert texts(lines) != expected(base, tokenizer, batch_seed(0, 0, [0, 1, 2]), reward_models=[arm], alpha=1.0)


def test_a_reward_model_reads_its_own_template(base, arm, tokenizer):
    templated = genarm_hf.AutoregressiveRewardModel.from_backbone(arm, prompt_template="Good: {prompt}")
    own = encode(tokenizer, [f"Good: {prompt}" for prompt in PROMPTS])
    wanted = expected(base, tokenizer, 2, reward_models=[templated], alpha=1.0, reward_inputs=own)
    assert texts(guided(base, tokenizer, templated, alpha=1.0, **SAMPLING)(PROMPTS, 2)) == wanted


def test_messages_beside_texts_leave_these_their_template(base, arm):
    chat = playground.load_tokenizer()
    chat.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    templated = genarm_hf.AutoregressiveRewardModel.from_backbone(arm, prompt_template="Good: {prompt}")
    system = guided(base, chat, templated, alpha=2.0, max_new_tokens=6, do_sample=False)
    prompts = [PROMPTS[0], [{"role": "user", "content": PROMPTS[1]}]]
    assert texts(system(prompts, 0)) == [texts(system([prompt], 0))[0] for prompt in prompts]


def test_decoders_are_systems(base, tokenizer):
    def decode(model, reward, input_ids, attention_mask, *, max_new_tokens, strength):
        assert (reward, strength) == ("a reward", 2)
        return model.generate(
            input_ids=input_ids, attention_mask=attention_mask, max_new_tokens=max_new_tokens, do_sample=True, top_k=0
        )

    system = from_decoder(decode, base, tokenizer, "a reward", max_new_tokens=6, strength=2)
    assert texts(system(PROMPTS, 3)) == expected(base, tokenizer, 3)


def test_kept_ids_give_the_divergence(base, arm, tokenizer):
    """Log-probabilities of the very tokens, ends of text included, against a plain forward of each row."""
    samples = guided(base, tokenizer, arm, alpha=1.0, keep_ids=True, **SAMPLING)(PROMPTS, 0)
    lines = [{"prompt": prompt, **sample} for prompt, sample in zip(PROMPTS, samples, strict=True)]
    policy = reply_logprobs(genarm_hf.guide(base, arm, alpha=1.0), tokenizer, lines, batch_size=2)
    of_base = reply_logprobs(base, tokenizer, lines)
    for line, found, found_base in zip(lines, policy, of_base, strict=True):
        start = tokenizer(line["prompt"])["input_ids"]
        ids = torch.tensor([start + line["reply_ids"]])
        with torch.no_grad():
            plain = base(ids).logits.log_softmax(-1)
            both = (plain + arm(ids).logits.log_softmax(-1)).log_softmax(-1)
        targets, places = ids[0, len(start) :], torch.arange(len(start) - 1, ids.shape[1] - 1)
        assert found == pytest.approx(both[0, places, targets].tolist(), abs=1e-4)
        assert found_base == pytest.approx(plain[0, places, targets].tolist(), abs=1e-4)
        assert len(found) == line["tokens"] == len(line["reply_ids"])
        assert log_ratios([found], [found_base])[0] == pytest.approx(sum(found) - sum(found_base))


@pytest.mark.parametrize("shape", [{}, {"temperature": 0.5}, {"top_k": 3}, {"do_sample": False}])
def test_kept_logprobs_are_of_what_was_drawn_from(base, arm, tokenizer, shape):
    """Against the guided policy read anew, shaped by hand."""
    options = SAMPLING | shape
    samples = guided(base, tokenizer, arm, alpha=1.0, keep_ids=True, keep_logprobs=True, **options)(PROMPTS, 0)
    assert [{k: v for k, v in one.items() if k != "reply_logprobs"} for one in samples] == guided(
        base, tokenizer, arm, alpha=1.0, keep_ids=True, **options
    )(PROMPTS, 0)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        start = tokenizer(prompt)["input_ids"]
        ids = torch.tensor([start + sample["reply_ids"]])
        with torch.no_grad():
            logits = genarm_hf.guide(base, arm, alpha=1.0)(ids).logits[0, len(start) - 1 : -1]
        logits = logits / shape.get("temperature", 1.0)
        if "top_k" in shape:
            logits = logits.masked_fill(logits < logits.topk(3).values[:, -1:], -torch.inf)
        expected = logits.log_softmax(-1).gather(-1, ids[0, len(start) :, None])[:, 0]
        assert sample["reply_logprobs"] == pytest.approx(expected.tolist(), abs=1e-4)


def test_beams_have_no_logprobs_of_draws(base, tokenizer):
    with pytest.raises(ValueError, match=r"`keep_logprobs`.*num_beams=2.*Leave one"):
        guided(base, tokenizer, keep_logprobs=True, num_beams=2)


def test_settings_go_into_the_manifest_and_guard_the_run(base, arm, tokenizer, tmp_path):
    path = tmp_path / "out.jsonl"
    run(guided(base, tokenizer, arm, alpha=0.5, **SAMPLING), PROMPTS, path, name="guided", settings={"arm": "v1"})
    found = json.loads((tmp_path / "out.manifest.json").read_text())["settings"]
    assert (
        found
        == {"model": "LlamaForCausalLM", "reward_models": ["LlamaForCausalLM"], "alpha": 0.5, "arm": "v1"} | SAMPLING
    )
    with pytest.raises(ValueError, match=r"settings.alpha: 0.5 -> \[0.25\]"):
        other = guided(base, tokenizer, [arm], alpha=torch.tensor([0.25]), **SAMPLING)
        run(other, PROMPTS, path, name="guided", settings={"arm": "v1"})
    assert from_decoder(tiny, base, tokenizer, arm, k=(1, 2)).settings == {
        "decoder": "tiny",
        "model": "LlamaForCausalLM",
        "reward": "LlamaForCausalLM",
        "k": [1, 2],
    }


def test_tokens_end_with_the_text(tokenizer):
    model = tiny(vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = [7, 9]
    system = from_decoder(
        lambda model, reward, ids, mask: torch.cat([ids, torch.tensor([[5, 9, 6], [5, 6, tokenizer.pad_token_id]])], 1),
        model,
        tokenizer,
        keep_ids=True,
    )
    assert [sample["reply_ids"] for sample in system(PROMPTS[:2], 0)] == [[5, 9], [5, 6]]


def test_messages_go_through_the_chat_template(tokenizer):
    chat = playground.load_tokenizer()
    chat.chat_template = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    encoded = encode(chat, [[{"role": "user", "content": "Hello"}], "Hello there, you"])
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(*encoded.values(), strict=True)]
    assert rows == [tokenizer("Hello!")["input_ids"], tokenizer("Hello there, you")["input_ids"]]
    assert encoded["attention_mask"][0, 0] == 0  # on the left
