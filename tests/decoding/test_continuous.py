"""Continuous batching: whatever requests meet in a batch, each is guided as if it were alone."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig

import genarm_hf
from genarm_hf.decoding import generation

from ..conftest import EOS, PAD, VOCAB, prompts, tiny
from .reference import next_logits, reference_greedy, reward_terms

try:
    generation._check_continuous_batching()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)

from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.offloading_manager import OffloadingManager

from genarm_hf.decoding import continuous
from genarm_hf.decoding.paged_cache import joint_layout

NEW_TOKENS = 8
LENGTHS = (3, 9, 17, 1)
ROWS = torch.tensor([[0.9, -0.3], [0.0, 1.2], [0.4, 0.0], [0.0, 0.0]])


def random_ids(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def greedy(**changes: Any) -> GenerationConfig:
    fields = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": EOS, "pad_token_id": PAD}
    return GenerationConfig(**fields | changes)


def small(**changes: Any) -> ContinuousBatchingConfig:
    """A cache and a batch that fit the tests; the default takes most of the machine's memory."""
    fields = {"page_size": 4, "num_blocks": 60, "max_batch_tokens": 64, "max_requests_per_batch": 16}
    return ContinuousBatchingConfig(**fields | changes)


def tokens(outputs: dict[str, Any]) -> list[list[int]]:
    assert not any(output.error for output in outputs.values())
    return [output.generated_tokens for output in outputs.values()]


def one_by_one(base: Any, arms: Sequence[Any], alpha: Any, inputs: list[list[int]]) -> list[list[int]]:
    rows = torch.as_tensor(alpha, dtype=torch.float32).expand(len(inputs), len(arms))
    found = []
    for ids, row in zip(inputs, rows, strict=True):
        prompt = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        found.append(reference_greedy(base, arms, row, prompt, NEW_TOKENS, EOS)[0, len(ids) :].tolist())
    return found


def adapted(base: Any) -> Any:
    """A LoRA reward model on the base's own tensors."""
    peft = pytest.importorskip("peft")
    from genarm_hf.adapters import share_weights

    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    return peft.get_peft_model(share_weights(base), config).eval()


@pytest.fixture(scope="module")
def trio() -> tuple[Any, list[Any]]:
    """A base and two reward models, one deeper, one with other heads."""
    return tiny("llama"), [tiny("llama", 1, num_hidden_layers=3), tiny("qwen2", 2, num_key_value_heads=4)]


# ---------------------------------------------------------------------- equal to one request at a time


WIDE: dict[str, Any] = {"hidden_size": 64, "num_key_value_heads": 4}  # keys four times as wide as the base's
NARROW: dict[str, Any] = {"hidden_size": 16, "num_key_value_heads": 1}  # an eighth
ODD: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3}  # one and a half


@pytest.mark.parametrize(
    ("base", "arms", "alpha"),
    [
        ("llama", [("llama", {})], 0.7),
        ("llama", [("llama", {"num_hidden_layers": 4}), ("llama", NARROW)], [0.8, -0.2]),
        ("llama", [("qwen2", WIDE), ("gpt2", {}), ("llama", ODD)], [0.8, -0.2, 0.5]),
        ("qwen2", [("llama", {})], 1.0),
        ("gpt2", [("llama", {})], 1.0),
        ("llama", [("mistral", {})], 1.0),
        ("mistral", [("llama", {"num_hidden_layers": 3})], 1.0),
        ("mistral", [("mistral", {"num_hidden_layers": 3}), ("gemma", {})], [0.7, 0.7]),
        ("gemma", [("gemma", {})], -0.5),
        ("llama", [("gemma", {})], [[0.5], [-0.5], [0.0], [2.0]]),
    ],
    ids=str,
)
def test_equals_one_request_at_a_time(base: str, arms: list[tuple[str, dict[str, Any]]], alpha: Any) -> None:
    model = tiny(base)
    rewards = [tiny(kind, seed, **changes) for seed, (kind, changes) in enumerate(arms, 7)]
    inputs = random_ids(*LENGTHS)
    alpha = torch.tensor(alpha)
    outputs = model.generate_batch(inputs, greedy(), small(), reward_models=rewards, alpha=alpha)
    assert tokens(outputs) == one_by_one(model, rewards, alpha, inputs)
    assert [output.prompt_ids for output in outputs.values()] == inputs


def test_guidance_matters_here(trio: Any) -> None:
    """The tests of this module could not fail otherwise."""
    base, arms = trio
    inputs = random_ids(*LENGTHS)
    found = [one_by_one(base, arms, alpha, inputs) for alpha in (torch.tensor([0.0, 0.0]), ROWS, torch.ones(2))]
    assert all(row[0] != row[2] for row in zip(*found, strict=True))
    assert [row[0] == row[1] for row in zip(*found, strict=True)] == [False, False, False, True]


def test_lora_on_the_weights_of_the_base() -> None:
    base = tiny("llama")
    arm = adapted(base)
    inputs = random_ids(*LENGTHS)
    found = base.generate_batch(inputs, greedy(), small(), reward_models=arm, alpha=3.0)
    assert tokens(found) == one_by_one(base, [arm], torch.tensor([3.0]), inputs)


def test_each_request_has_its_own_alpha(trio: Any) -> None:
    base, arms = trio
    inputs = random_ids(*LENGTHS)
    found = base.generate_batch(inputs, greedy(), small(), reward_models=arms, alpha=ROWS)
    assert tokens(found) == one_by_one(base, arms, ROWS, inputs)


def test_many_requests_in_a_tiny_cache(trio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They queue, are prefilled in pieces, thrown out and read again."""
    base, arms = trio
    evictions = []
    stock = OffloadingManager.offload_requests
    monkeypatch.setattr(OffloadingManager, "offload_requests", lambda self: evictions.append(1) or stock(self))
    inputs, rows = random_ids(*LENGTHS, *LENGTHS, *LENGTHS), ROWS.repeat(3, 1)
    tight = small(num_blocks=14, max_batch_tokens=6, max_requests_per_batch=5)
    found = base.generate_batch(inputs, greedy(), tight, reward_models=arms, alpha=rows)
    assert evictions
    assert tokens(found) == one_by_one(base, arms, rows, inputs)


def test_shared_prefixes(trio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that one request has filled serve others, whatever their alpha, for all models at once."""
    base, arms = trio
    matches: list[int] = []
    stock = PagedAttentionCache.search_prefix_match

    def counted(self: Any, *args: Any) -> int:
        matches.append(stock(self, *args))
        return matches[-1]

    monkeypatch.setattr(PagedAttentionCache, "search_prefix_match", counted)
    (prefix,) = random_ids(13, seed=5)
    inputs, rows = [prefix + ids for ids in random_ids(*LENGTHS)] * 2, ROWS.repeat(2, 1)
    found = base.generate_batch(inputs, greedy(), small(max_batch_tokens=16), reward_models=arms, alpha=rows)
    assert any(matches)
    assert tokens(found) == one_by_one(base, arms, rows, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_loads(trio: Any, seed: int) -> None:
    base, arms = trio
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))  # noqa: E731
    inputs = random_ids(*(draw(1, 24) for _ in range(draw(1, 14))), seed=seed)
    rows = torch.randn(len(inputs), 2, generator=generator).round(decimals=1)
    load = small(
        page_size=draw(4, 9),
        num_blocks=draw(10, 30),
        max_batch_tokens=draw(6, 40),
        max_requests_per_batch=draw(1, 7),
        allow_block_sharing=bool(draw(0, 2)),
    )
    found = base.generate_batch(inputs, greedy(), load, reward_models=arms, alpha=rows)
    assert tokens(found) == one_by_one(base, arms, rows, inputs)


# ---------------------------------------------------------------------- sampling


def test_samples_come_from_the_guided_distribution(trio: Any) -> None:
    """Log-probabilities of what was drawn, children included, are those of the processed guided distribution."""
    base, arms = trio
    inputs, temperature = random_ids(*LENGTHS), 1.5
    sampling = greedy(do_sample=True, temperature=temperature, top_k=0, num_return_sequences=3)
    found = base.generate_batch(inputs, sampling, small(return_logprobs=True, seed=3), reward_models=arms, alpha=ROWS)
    assert len(found) == 3 * len(inputs)
    for name, output in found.items():
        row = int(name.split("_")[1])
        context = torch.tensor([output.prompt_ids])
        for token, logprob in zip(output.generated_tokens, output.logprobs, strict=True):
            mask = torch.ones_like(context)
            guided = next_logits(base, context, mask)[:, 0]
            guided = guided + reward_terms(arms, ROWS[row : row + 1], [(context, mask)] * 2, VOCAB)
            expected = (guided / temperature).log_softmax(-1)[0, token]
            assert logprob == pytest.approx(float(expected), abs=2e-4)
            context = torch.cat([context, torch.tensor([[token]])], 1)


def test_frequencies_of_samples(trio: Any) -> None:
    """Total variation to full enumeration, next to that of as many independent draws."""
    base, arms = trio
    (ids,), count = random_ids(5), 1500
    context, mask = torch.tensor([ids]), torch.ones(1, 5, dtype=torch.long)
    alpha = torch.tensor([[0.2, -0.1]])
    guided = next_logits(base, context, mask)[:, 0] + reward_terms(arms, alpha, [(context, mask)] * 2, VOCAB)
    exact = (guided / 3).softmax(-1)[0]
    sampling = greedy(do_sample=True, temperature=3.0, top_k=0, max_new_tokens=1, eos_token_id=-1)
    batch = small(num_blocks=300, max_batch_tokens=256, max_requests_per_batch=256, seed=1)
    found = base.generate_batch([ids] * count, sampling, batch, reward_models=arms, alpha=alpha)
    counts = torch.bincount(torch.tensor(tokens(found)).flatten(), minlength=VOCAB)
    independent = torch.multinomial(exact, count, True, generator=torch.Generator().manual_seed(0)).bincount(
        minlength=VOCAB
    )
    distance, noise = (0.5 * (drawn / count - exact).abs().sum() for drawn in (counts, independent))
    assert distance < 1.5 * noise


# ---------------------------------------------------------------------- switched off


def test_alpha_0_is_the_unguided_call_and_runs_nothing(trio: Any) -> None:
    base, arms = trio
    inputs, ran = random_ids(*LENGTHS), []
    handles = [arm.register_forward_pre_hook(lambda *_: ran.append(1)) for arm in arms]
    plain = base.generate_batch(inputs, greedy(), small(return_logprobs=True))
    off = base.generate_batch(inputs, greedy(), small(return_logprobs=True), reward_models=arms, alpha=[0, 0.0])
    empty = base.generate_batch(inputs, greedy(), small(return_logprobs=True), reward_models=[])
    for handle in handles:
        handle.remove()
    for found in (off, empty):
        assert tokens(found) == tokens(plain)
        assert [o.logprobs for o in found.values()] == [o.logprobs for o in plain.values()]
    assert not ran


def test_a_reward_model_that_is_off_in_all_requests_does_not_run(trio: Any) -> None:
    base, arms = trio
    inputs, ran = random_ids(*LENGTHS), []
    handle = arms[1].register_forward_pre_hook(lambda *_: ran.append(1))
    found = base.generate_batch(inputs, greedy(), small(), reward_models=arms, alpha=[0.7, 0.0])
    handle.remove()
    assert not ran
    assert tokens(found) == one_by_one(base, arms, torch.tensor([0.7, 0.0]), inputs)


def test_a_request_at_alpha_0_has_the_base_s_logits(trio: Any) -> None:
    """Its own rows are bit for bit what they are without reward models, in a batch of the same requests."""
    base, arms = trio
    inputs = random_ids(5, 5)
    once = greedy(max_new_tokens=1)
    plain = base.generate_batch(inputs, once, small(return_logprobs=True))
    mixed = base.generate_batch(
        inputs, once, small(return_logprobs=True), reward_models=arms, alpha=torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    )
    assert plain["req_0"].logprobs == mixed["req_0"].logprobs
    assert plain["req_1"].logprobs != mixed["req_1"].logprobs


# ---------------------------------------------------------------------- managers


def collect(manager: Any, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while len(found) < count:
        result = manager.get_result(timeout=1)
        if result is not None:
            found[result.request_id] = result
        else:
            assert manager.is_running(), "the loop died"
    return found


def test_a_manager_takes_an_alpha_with_each_request(trio: Any) -> None:
    base, arms = trio
    inputs = random_ids(*LENGTHS)
    manager = base.init_continuous_batching(greedy(), small(), reward_models=arms, alpha=[0.9, -0.3])
    manager.start()
    names = [manager.add_request(inputs[0]), manager.add_request(inputs[1], alpha=[0.0, 1.2])]
    names += manager.add_requests(inputs[2:], alpha=ROWS[2:])
    try:
        for alpha, message in [([1.0], "shape"), (float("nan"), "finite"), (ROWS, "one row of numbers, got 4")]:
            with pytest.raises(ValueError, match=message):
                manager.add_request(inputs[0], alpha=alpha)
        with pytest.raises(ValueError, match="`alpha` has 4 rows, and there are 2 requests"):
            manager.add_requests(inputs[:2], alpha=ROWS)
        with pytest.raises(ValueError, match="keep_for_next_session"):
            manager.stop(keep_for_next_session=True)
        found = collect(manager, 4)
    finally:
        manager.stop()
    assert tokens({name: found[name] for name in names}) == one_by_one(base, arms, ROWS, inputs)
    with pytest.raises(RuntimeError, match="started once"):
        manager.start()


def test_requests_keep_their_other_arguments(trio: Any) -> None:
    """A temperature of their own, next to an alpha of their own."""
    base, arms = trio
    (ids,) = random_ids(5)
    batch, sampling = small(per_request_processors=True, return_logprobs=True), greedy(do_sample=True, temperature=2.0)
    model = genarm_hf.guide(base, arms, [0.5, 0.5])
    with model.continuous_batching_context_manager(
        generation_config=sampling, continuous_batching_config=batch
    ) as manager:
        cold = manager.add_request(ids, temperature=1e-3, alpha=[0.9, -0.3])
        found = collect(manager, 1)
    assert found[cold].generated_tokens == one_by_one(base, arms, ROWS[:1], [ids])[0]


def test_guided_models(trio: Any) -> None:
    base, arms = trio
    inputs = random_ids(*LENGTHS)
    guided = genarm_hf.guide(base, arms, alpha=[0.9, -0.3])
    found = guided.generate_batch(inputs, greedy(), small())
    assert tokens(found) == one_by_one(base, arms, ROWS[0], inputs)
    found = guided.generate_batch(inputs, generation_config=greedy(), continuous_batching_config=small(), alpha=ROWS)
    assert tokens(found) == one_by_one(base, arms, ROWS, inputs)
    found = guided.generate_batch(inputs, greedy(), small(), alpha=0)
    assert tokens(found) == one_by_one(base, arms, torch.zeros(2), inputs)
    with pytest.raises(TypeError, match="guided already"):
        guided.generate_batch(inputs, reward_models=arms)


def test_guided_models_where_transformers_is_left_as_it_is(trio: Any) -> None:
    base, arms = trio
    guided, inputs = genarm_hf.guide(base, arms, [0.8, 0.4]), random_ids(5, 9)
    expected = one_by_one(base, arms, [0.8, 0.4], inputs)
    genarm_hf.uninstall()
    try:
        assert tokens(guided.generate_batch(inputs, greedy(), continuous_batching_config=small())) == expected
    finally:
        genarm_hf.install()


def test_a_generation_config_that_names_reward_models(trio: Any, tmp_path: Any) -> None:
    base, arms = trio
    arms[0].save_pretrained(tmp_path)
    inputs = random_ids(*LENGTHS)
    config = greedy()
    config.reward_models, config.alpha = [str(tmp_path)], 0.6
    expected = one_by_one(base, arms[:1], torch.tensor([0.6]), inputs)
    assert tokens(base.generate_batch(inputs, config, small())) == expected
    with base.continuous_batching_context_manager(config, continuous_batching_config=small()) as manager:
        (name,) = manager.add_requests(inputs[:1])
        assert collect(manager, 1)[name].generated_tokens == expected[0]
    unguided = base.generate_batch(inputs, config, small(), reward_models=[])
    assert tokens(unguided) == tokens(base.generate_batch(inputs, greedy(), small()))


# ---------------------------------------------------------------------- nothing is changed


def state(model: Any) -> tuple[Any, ...]:
    return (
        model.config._attn_implementation,
        [module.training for module in model.modules()],
        copy.deepcopy(model.generation_config.to_dict()),
        sorted(vars(model)),
        [getattr(module, "layer_idx", None) for module in model.modules()],
    )


@pytest.fixture
def eager() -> Iterator[tuple[Any, list[Any]]]:
    """Models whose attention must be switched, one of them in training mode."""
    base, arms = tiny("llama"), [tiny("llama", 1), tiny("gemma", 2)]
    base.set_attn_implementation("eager")
    arms[0].set_attn_implementation("eager")
    base.train()
    base.generation_config.eos_token_id = None
    before = [state(model) for model in (base, *arms)]
    yield base, arms
    assert [state(model) for model in (base, *arms)] == before


def test_models_are_afterwards_what_they_were(eager: Any) -> None:
    base, arms = eager
    inputs = random_ids(*LENGTHS)
    found = base.generate_batch(inputs, None, small(), max_new_tokens=4, reward_models=arms, alpha=ROWS)
    base.eval()
    expected = [ids[:4] for ids in one_by_one(base, arms, ROWS, inputs)]
    base.train()
    assert tokens(found) == expected


@pytest.mark.parametrize("where", ["forward", "warm-up", "manager"])
def test_models_are_restored_after_errors(eager: Any, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, arms = eager
    (ids,) = random_ids(3)

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no luck")

    if where == "forward":
        monkeypatch.setattr(type(arms[1]), "forward", fail)
        (found,) = base.generate_batch([ids], greedy(), small(), reward_models=arms, alpha=1.0).values()
        assert "no luck" in found.error
        return
    target = (
        (continuous.ContinuousBatchingManager, "warmup") if where == "warm-up" else (continuous, "_match_attention")
    )
    monkeypatch.setattr(*target, fail)
    with pytest.raises(ZeroDivisionError):
        base.generate_batch([ids], greedy(), small(), reward_models=arms, alpha=1.0)


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"reward_inputs": prompts(1)}, ValueError, "takes no `reward_inputs`"),
        ({"output_rewards": True}, ValueError, "takes no `output_rewards`"),
        ({"share_backbone": True}, ValueError, "takes no `share_backbone`"),
        ({"alpha": lambda step: 1.0}, ValueError, "no callable `alpha`"),
        ({"alpha": torch.ones(3, 1)}, ValueError, "made for a batch of 3, and the inputs have 2"),
        ({"alpha": "strong"}, TypeError, "must be a number"),
        ({"num_beams": 2}, ValueError, "no beam search, and `num_beams` is 2"),
        ({"generation_config": GenerationConfig(num_beams=3)}, ValueError, "no beam search, and `num_beams` is 3"),
        ({"persistent_manager": True}, ValueError, "Keep one yourself"),
        ({"inputs": "text"}, TypeError, "`inputs` must be a list of prompts"),
        ({"inputs": [1, 2]}, TypeError, "`inputs` must be a list of prompts"),
        ({"inputs": [[1], []]}, TypeError, "at least one id"),
        ({"reward_models": []}, ValueError, "`alpha` needs reward models"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # others differ from process to process
)
def test_one_clear_error(trio: Any, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    base, arms = trio
    arguments = {"inputs": random_ids(2, 3), "reward_models": arms[:1], "alpha": 1.0} | changes
    with pytest.raises(error, match=message):
        base.generate_batch(**arguments)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (lambda: tiny("llama", 1).to(torch.bfloat16), r"reward_models\[0\] is on dtype torch.bfloat16"),
        (lambda: tiny("llama", 1).to("meta"), r"reward_models\[0\] is on device meta"),
        (lambda: tiny("mistral", 1, sliding_window=9), r"6 \(the base\) and 9 \(reward_models\[0\]\)"),
    ],
)
def test_reward_models_that_cannot_share_a_cache(arm: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny("mistral").generate_batch(random_ids(3), reward_models=arm(), alpha=1.0)


def test_errors_count_as_the_caller_does() -> None:
    arms = [tiny("llama", 1), tiny("llama", 1).to(torch.bfloat16)]
    with pytest.raises(ValueError, match=r"reward_models\[1\] is on dtype"):
        tiny("llama").generate_batch(random_ids(3), reward_models=arms, alpha=[0.0, 1.0])


def test_keys_of_another_shape_take_no_block_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only flash attention reads them, with the shapes of the base."""
    seen = []

    def stop(self: Any, config: Any, batching: Any, hints: Any) -> None:
        seen.append(batching.max_blocks_per_request)
        raise ZeroDivisionError

    monkeypatch.setattr(continuous.ContinuousMixin, "init_continuous_batching", stop)
    asked = small(max_blocks_per_request=8)
    for arm in (tiny("llama", 1), tiny("llama", 1, **NARROW)):
        with pytest.raises(ZeroDivisionError):
            tiny("llama").generate_batch(random_ids(3), greedy(), asked, reward_models=arm, alpha=1.0)
    assert seen == [8, 0] and asked.max_blocks_per_request == 8


def test_attention_of_its_own_kind() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    bloom = BloomForCausalLM(BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=1, n_head=2)).eval()
    with pytest.raises(ValueError, match=r"BloomForCausalLM\) has attention layers of its own kind"):
        tiny("llama").generate_batch(random_ids(3), reward_models=bloom, alpha=1.0)
    layers = tiny("llama", 1)
    layers.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match=r"reward_models\[0\] has layers that .* no paged cache for"):
        joint_layout([tiny("llama"), layers], ["the base", "reward_models[0]"])


def test_prompts_that_a_reward_model_cannot_read() -> None:
    base, short, few = tiny("llama"), tiny("gpt2", 1, n_positions=10), tiny("llama", 2, vocab_size=40)
    with pytest.raises(ValueError, match="at most 10 tokens"):
        base.generate_batch([[5] * 11], reward_models=short, alpha=1.0)
    with pytest.raises(ValueError, match="max_new_tokens` of 3 or less"):
        base.generate_batch([[5] * 7], max_new_tokens=4, reward_models=short, alpha=1.0)
    with pytest.raises(ValueError, match=r"the id 45, and reward_models\[0\] knows 40"):
        base.generate_batch([[3, 45]], reward_models=few, alpha=1.0)


@pytest.mark.filterwarnings("ignore")
def test_a_smaller_vocabulary() -> None:
    """What the reward model lacks cannot be sampled under it, and does not disturb requests that it leaves alone."""
    base, arm = tiny("llama", 8), tiny("llama", 2, vocab_size=30)
    inputs = [[3, 4, 5], [6, 45, 7, 8], [9, 10]]
    rows = torch.tensor([[0.8], [0.0], [-0.4]])
    found = base.generate_batch(inputs, greedy(), small(), reward_models=arm, alpha=rows)
    assert tokens(found) == one_by_one(base, [arm], rows, inputs)
    assert max(map(max, tokens(found)[::2])) < 30 <= max(tokens(found)[1])


def test_several_alphas_for_a_manager(trio: Any) -> None:
    base, arms = trio
    with pytest.raises(ValueError, match="`alpha` has 4 rows, and a manager has no requests yet"):
        base.init_continuous_batching(reward_models=arms, alpha=ROWS)


def test_other_versions_are_refused_by_name(trio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base, arms = trio
    monkeypatch.setattr(PagedAttentionCache, "update", lambda self, key_states, value_states, layer_idx: None)
    with pytest.raises(RuntimeError, match=rf"built for transformers 5.* and {transformers.__version__} works"):
        base.generate_batch(random_ids(3), reward_models=arms)
