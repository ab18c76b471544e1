"""What guidance costs, by counts and not by seconds: forwards, tokens fed, operations, copies, waits, bytes.

Everything is counted per generated token, as the difference of a longer and a shorter call: the prompt and what a call
prepares once drop out. A number that grows here is a slower step on every machine.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import genarm_hf

from ..conftest import prompts, tiny
from .test_speculative import count_forwards, drafting

counted_in_the_present_loop = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="older loops hand masks without padding on, which every model then looks at",
)

VOCAB = 53  # the width of nothing else in the models
LENGTHS = (3, 5, 7)
LOOP: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
# operations that only look at a tensor in another way
VIEWS = {
    "alias",
    "detach",
    "expand",
    "lift_fresh",
    "permute",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
}
VIEWS |= {"t", "transpose", "unbind", "unsafe_split", "unsqueeze", "view", "_reshape_alias", "_unsafe_view", "chunk"}
COPIES = {"_to_copy", "cat", "clone", "constant_pad_nd", "copy_", "index", "index_select", "repeat", "stack"}
# where a host that queues work on an accelerator has to wait for it
WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "unique2"}
READS = {"cpu", "numpy", "tolist"}


class Operations(TorchDispatchMode):
    """Counts kernels, copies of logits among them, and waits."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.logits_copies = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name not in VIEWS:
            self.kernels[name] += 1
        if name in COPIES and isinstance(result, Tensor) and result.ndim and result.shape[-1] == VOCAB:
            self.logits_copies += 1
        return result


class Reads(TorchFunctionMode):
    """Counts what moves a tensor's values to the host without an operation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(function, "__name__", "") in READS
        return function(*args, **(kwargs or {}))


def count(run: Callable[[], Any]) -> Counter[str]:
    """Kernels by name; `logits copies` and `waits` beside them."""
    with Operations() as operations, Reads() as reads:
        run()
    waits = sum(operations.kernels[name] for name in WAITS) + reads.count
    return operations.kernels + Counter({"logits copies": operations.logits_copies, "waits": waits})


def per_token(run: Callable[[int], Any]) -> Counter[str]:
    """Counts of one more token of `run(new_tokens)`; they must be the same for every token."""
    run(LENGTHS[0])  # what is made once and kept
    short, middle, long = (count(lambda n=n: run(n)) for n in LENGTHS)
    first, second = middle - short, long - middle
    assert first == second and not any(value % 2 for value in first.values()), "tokens differ in cost"
    return Counter({name: value // 2 for name, value in first.items()})


def kernels(counts: Counter[str]) -> Counter[str]:
    return Counter({name: value for name, value in counts.items() if name not in ("logits copies", "waits")})


def generate(base: Any, prompt: dict[str, Tensor], **guidance: Any) -> Callable[[int], Any]:
    return lambda new_tokens: base.generate(**prompt, **LOOP | guidance, max_new_tokens=new_tokens)


def llama(seed: int = 0, **changes: Any) -> Any:
    return tiny("llama", seed=seed, vocab_size=VOCAB, **changes)


def on_base(base: Any, seed: int) -> Any:
    pytest.importorskip("peft")
    from .test_shared_backbone import adapted

    return adapted(base, seed, r=4)


def step_of(model: Any, prompt: dict[str, Tensor]) -> Counter[str]:
    """Kernels of one forward of one token behind a cached prompt."""
    with torch.no_grad():
        cache = model(**prompt, use_cache=True).past_key_values
        token = prompt["input_ids"][:, -1:]
        return kernels(count(lambda: model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)))


def total(counts: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counts, Counter())


# ---------------------------------------------------------------------- forwards


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("arms", [1, 3])
def test_every_model_is_fed_every_token_once(arms: int, cache: str) -> None:
    base, rewards = llama(), [tiny("gpt2", seed=1 + i, vocab_size=VOCAB) for i in range(arms)]
    fed = count_forwards(base, *rewards)
    mode = {"cache_implementation": "static"} if cache == "static" else {}
    generate(base, prompts(2, 6, padded=True), reward_models=rewards, alpha=0.5, **mode)(9)
    assert fed == [[6] + [1] * 8] * (1 + arms)


def test_one_pass_feeds_every_row_once_and_no_other_model() -> None:
    base = llama()
    rewards = [on_base(base, 1), on_base(base, 2)]
    guided = genarm_hf.guide(base, rewards, 0.5)  # hooks on the base before this would ask for its own pass
    joint = guided._guidance.shared_with(base).joint
    rows: list[tuple[int, int]] = []
    joint.model.embed_tokens.register_forward_pre_hook(lambda _, args: rows.append(tuple(args[0].shape)))
    fed = count_forwards(base, *[reward.get_base_model() for reward in rewards])
    generate(guided, prompts(2, 6))(9)
    assert rows[-8:] == [(3 * 2, 1)] * 8 and [lengths for lengths in fed if 1 in lengths] == []


def test_beams_feed_every_token_once() -> None:
    base, arm = llama(), llama(1)
    fed = count_forwards(base, arm)
    generate(base, prompts(2, 6), reward_models=[arm], alpha=0.5, num_beams=3)(9)
    assert fed == [[6] + [1] * 8] * 2


@pytest.mark.parametrize("draft", ["reward model", "small base", "prompt lookup"])
def test_speculation_feeds_what_is_drafted_and_one_token_a_round(draft: str) -> None:
    if draft == "prompt lookup" and Version(transformers.__version__) < Version("5.15"):
        pytest.skip("prompt lookup of this transformers fails without an id that ends the text")
    base, arm, small = llama(), drafting(llama(1), 4), drafting(llama(), 4)
    prompt = prompts(1, 9)
    prompt["input_ids"][0, 4:8] = prompt["input_ids"][0, :4]
    fed = dict(zip(("base", "arm", "small"), count_forwards(base, arm, small), strict=True))
    drafts: dict[str, Any] = {"reward model": {"assistant_model": arm}, "small base": {"assistant_model": small}}
    drafts["prompt lookup"] = {"prompt_lookup_num_tokens": 3}
    output = generate(base, prompt, reward_models=[arm], alpha=3.0, return_dict_in_generate=True, **drafts[draft])(21)
    spoken = output.speculation
    assert spoken.accepted + spoken.rounds == 21 and spoken.drafted > 0
    assert len(fed["base"]) == spoken.rounds and sum(fed["base"]) == 9 + spoken.drafted + spoken.rounds - 1
    reading = spoken.rounds if draft == "prompt lookup" else spoken.drafted + spoken.rounds
    assert len(fed["arm"]) == reading and sum(fed["arm"]) == sum(fed["base"])
    assert len(fed["small"]) == (spoken.drafted if draft == "small base" else 0)


# ---------------------------------------------------------------------- operations


@counted_in_the_present_loop
@pytest.mark.parametrize("arms", [1, 3])
def test_guidance_itself_is_two_operations_a_reward_model(arms: int) -> None:
    base, rewards, prompt = llama(), [llama(1 + i) for i in range(arms)], prompts(2, 6)
    guided = per_token(generate(base, prompt, reward_models=rewards, alpha=0.7))
    unguided = per_token(generate(base, prompt))
    models = total(step_of(reward, prompt) for reward in rewards)
    assert kernels(guided) - models - kernels(unguided) == Counter(_log_softmax=arms, add=arms)
    assert not models + kernels(unguided) - kernels(guided)


@counted_in_the_present_loop
@pytest.mark.parametrize("arms", [1, 3])
def test_one_pass_is_two_operations_a_layer_and_two_a_reward_model(arms: int) -> None:
    base, prompt = llama(), prompts(2, 6)
    rewards = [on_base(base, 1 + i) for i in range(arms)]
    layers = sum(hasattr(module, "lora_A") for module in rewards[0].modules())
    guided = per_token(generate(base, prompt, reward_models=rewards, alpha=0.7))
    extra = kernels(guided) - kernels(per_token(generate(base, prompt)))
    # and ids and positions of every stream
    assert layers == 8 and extra.total() <= 2 * layers + 2 * arms + 2


@pytest.mark.parametrize("alpha", [0.0, [0.0, 0.0]])
def test_alpha_zero_costs_nothing(alpha: Any) -> None:
    base, prompt = llama(), prompts(2, 6, padded=True)
    rewards = [llama(1), on_base(base, 2)]
    assert per_token(generate(base, prompt, reward_models=rewards, alpha=alpha)) == per_token(generate(base, prompt))


def test_an_unguided_call_costs_what_it_costs_without_the_package() -> None:
    """The whole call, of a base that reward models have been attached to and have guided."""
    base, prompt = llama().requires_grad_(False), prompts(2, 6, padded=True)  # PEFT freezes what it adapts
    genarm_hf.uninstall()
    try:
        expected = count(lambda: generate(base, prompt)(5))
    finally:
        genarm_hf.install()
    generate(base, prompt, reward_models=[on_base(base, 1), llama(2)], alpha=0.7)(5)
    assert count(lambda: generate(base, prompt)(5)) == expected


# ---------------------------------------------------------------------- copies and waits


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1), (torch.bfloat16, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_logits_are_not_copied_around(dtype: torch.dtype, most: int, shared: bool) -> None:
    """One copy is stock generate()'s; on a CPU, a reward model's half precision becomes float32 apart."""
    base, prompt = llama().to(dtype), prompts(2, 6)
    rewards = [on_base(base, 1), on_base(base, 2)] if shared else [llama(1).to(dtype), llama(2).to(dtype)]
    guided = per_token(generate(base, prompt, reward_models=rewards, alpha=0.7))
    assert per_token(generate(base, prompt))["logits copies"] == 1 and guided["logits copies"] <= most


@counted_in_the_present_loop
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("mode", [{}, {"do_sample": True, "top_k": 5}, {"num_beams": 2}])
def test_the_host_waits_no_more_often(shared: bool, mode: dict[str, Any]) -> None:
    base, prompt = llama(), prompts(2, 6)
    rewards = [on_base(base, 1) if shared else llama(1)]
    alpha = torch.tensor([[0.7], [0.2]]) if mode else 0.7
    guided = per_token(generate(base, prompt, reward_models=rewards, alpha=alpha, **mode))
    assert guided["waits"] == per_token(generate(base, prompt, **mode))["waits"]


@counted_in_the_present_loop
def test_padding_makes_a_separate_reward_model_wait_as_it_would_alone() -> None:
    """transformers looks whether a mask hides anything; the base's pass looks once for all of its rows."""
    base, arm, prompt = llama(), llama(1), prompts(2, 6, padded=True)
    unguided, alone = (per_token(generate(model, prompt))["waits"] for model in (base, arm))
    stop = per_token(generate(base, prompts(2, 6)))["waits"]
    separate, shared = (
        per_token(generate(base, prompt, reward_models=[reward], alpha=0.7))["waits"]
        for reward in (arm, on_base(base, 1))
    )
    assert separate == unguided + alone - stop and shared == unguided


@counted_in_the_present_loop
def test_a_drafted_token_is_looked_at_once() -> None:
    """Whether it ends the draft; a round takes a few looks more, stock's among them."""
    base, arm, prompt = llama(), llama(1), prompts(1, 6)
    run = generate(base, prompt, reward_models=[arm], alpha=30.0, assistant_model=arm, return_dict_in_generate=True)

    def looks(threshold: float) -> tuple[int, Any]:
        drafting(arm, 6, threshold)
        spoken: list[Any] = []
        return count(lambda: spoken.append(run(22).speculation))["waits"], spoken[0]

    (looked, spoken), (blind, same) = looks(1e-9), looks(0.0)
    assert spoken == same and spoken.drafted > 15
    # none at the last token of a full draft, which ends anyway
    assert looked - blind == spoken.drafted - spoken.rounds
    assert blind <= 7 * spoken.rounds + 1


# ---------------------------------------------------------------------- bytes


def storages(*tensors: Tensor) -> dict[int, int]:
    """Bytes by address."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def weights(model: nn.Module) -> list[Tensor]:
    """Parameters, buffers, and tensors that modules keep as plain attributes."""
    plain = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return [*model.parameters(), *model.buffers(), *plain]


@pytest.mark.parametrize("arms", [1, 4])
def test_weights_are_held_once(arms: int) -> None:
    base = llama()
    before = storages(*weights(base))
    rewards = [on_base(base, 1 + i) for i in range(arms)]
    adapters = storages(*[p for reward in rewards for name, p in reward.named_parameters() if "lora_" in name])
    frequencies = storages(*[b for reward in rewards for b in reward.buffers()])
    held = storages(*weights(base), *[tensor for reward in rewards for tensor in weights(reward)])
    assert sum(held.values()) <= sum(before.values()) + sum(adapters.values()) + sum(frequencies.values())
    assert before.keys() <= held.keys() and sum(adapters.values()) > 0

    generate(base, prompts(2, 6), reward_models=rewards, alpha=0.5)(3)
    joint = genarm_hf.guide(base, rewards, 0.5)._guidance.shared_with(base).joint
    added = {at: size for at, size in storages(*weights(joint)).items() if at not in held}
    small = sum(size for at, size in storages(*joint.buffers()).items() if at in added)
    # the adapters side by side, as one pass reads them
    assert sum(added.values()) - small <= sum(adapters.values())


@pytest.mark.parametrize("shared", [False, True])
def test_caches_hold_every_token_of_every_model_once(shared: bool) -> None:
    base, arms = llama(), 2
    rewards = [on_base(base, 1 + i) if shared else llama(1 + i) for i in range(arms)]
    output = generate(base, prompts(3, 6), reward_models=rewards, alpha=0.5, return_dict_in_generate=True)(5)
    caches = [output.past_key_values, *[r.cache for r in output.past_key_values.readers if r is not None]]
    tensors = [tensor for cache in caches for layer in cache.layers for tensor in (layer.keys, layer.values)]
    config, tokens = base.config, 6 + 5 - 1  # the last token has been read by nobody
    row = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert sum(storages(*tensors).values()) == (1 + arms) * 3 * tokens * row
