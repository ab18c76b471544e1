"""LoRA reward models on the base's weights, held once: guided tokens are those of transformers, however scheduled."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from genarm_hf import AutoregressiveRewardModel

from .conftest import generate, params, random_prompts, start
from .engine_apart import generate_apart

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")
pytest.importorskip("peft", reason="PEFT is not installed")

ATTENTION = ["q_proj", "v_proj"]
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# base, whether saved as a reward model or by PEFT alone, and what LoraConfig says
ADAPTERS = {
    "everywhere": ("base", True, {"r": 4, "lora_alpha": 8, "target_modules": EVERYWHERE}),
    "attention": ("base", False, {"r": 2, "lora_alpha": 8, "target_modules": ATTENTION, "use_rslora": True}),
    "patterns": (
        "base",
        False,
        {
            "r": 3,
            "target_modules": ["up_proj", "o_proj", "k_proj"],
            "rank_pattern": {"up_proj": 5},
            "alpha_pattern": {"layers.1.self_attn.o_proj": 30},
            "layers_to_transform": [1],
        },
    ),
    "of_qwen2": ("qwen2", True, {"r": 4, "target_modules": EVERYWHERE}),
    "of_qwen3": ("qwen3", False, {"r": 4, "target_modules": EVERYWHERE}),
    "of_window": ("window", False, {"r": 4, "target_modules": EVERYWHERE}),
    "of_gpt2": ("gpt2", True, {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
}
LENGTHS = (3, 61, 17, 1, 33, 8)
ALPHAS = [None, 1.0, 0.5, 0, -0.5, [2.0]]


@pytest.fixture(scope="module")
def zoo(zoo):
    """With the adapters in it."""
    for seed, (name, (base, is_genarm, fields)) in enumerate(ADAPTERS.items()):
        zoo.models.setdefault(name, _adapter(zoo, name, base, is_genarm, fields, seed))
    return zoo


def _adapter(zoo, name, base, is_genarm, fields, seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(**{"init_lora_weights": False, "task_type": "CAUSAL_LM"} | fields)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(zoo.path(base)), config)
    model = AutoregressiveRewardModel.from_backbone(model) if is_genarm else model
    model.save_pretrained(zoo.folder / name)
    return AutoregressiveRewardModel.from_pretrained(zoo.folder / name)


@pytest.fixture(scope="module")
def one(zoo):
    """At alpha 0.7 where a request names none."""
    return start(zoo.compose("base", ["everywhere"], [0.7]))


@pytest.fixture(scope="module")
def two(zoo):
    """Of other ranks and layers."""
    return start(zoo.compose("base", ["attention", "everywhere"], [0.7, -0.3]))


def expected(zoo, arms, prompts, alphas, default=0.7, tokens=16, base="base"):
    return [
        zoo.expected(base, arms, prompt, default if alpha is None else alpha, tokens)
        for prompt, alpha in zip(prompts, alphas, strict=True)
    ]


def test_each_request_of_a_batch_has_its_own_alpha(zoo, one):
    prompts = random_prompts(LENGTHS)
    found = generate(one, prompts, [params(alpha) for alpha in ALPHAS])
    assert found == expected(zoo, ["everywhere"], prompts, ALPHAS)
    assert len({tuple(tokens) for tokens in expected(zoo, ["everywhere"], prompts[:1] * 4, [0, 0.5, 1, -0.5])}) == 4


def test_two_reward_models_of_other_ranks_and_layers(zoo, two):
    prompts, alphas = random_prompts(LENGTHS, seed=1), [None, [1, 0], [0, 1], 0, [-0.5, 0.8], 0.4]
    found = generate(two, prompts, [params(alpha) for alpha in alphas])
    assert found == expected(zoo, ["attention", "everywhere"], prompts, alphas, [0.7, -0.3])
    assert found != expected(zoo, ["everywhere", "attention"], prompts, alphas, [0.7, -0.3])


def test_alpha_zero_is_the_base_served_alone(zoo, two):
    prompts = random_prompts(LENGTHS, seed=2)
    alone = generate(start(zoo.path("base")), prompts, params())
    guided = generate(two, prompts, [params(alpha) for alpha in (0, 1.0, [0, 0.0], 0.5, 0, 0)])
    assert [guided[row] for row in (0, 2, 4, 5)] == [alone[row] for row in (0, 2, 4, 5)]
    assert guided[1] != alone[1] and guided[3] != alone[3]


@pytest.mark.parametrize(
    ("base", "arms"),
    [
        ("base", ["everywhere", "patterns", "attention"]),
        ("qwen2", ["of_qwen2"]),
        ("qwen3", ["of_qwen3"]),
        ("window", ["of_window"]),
        ("gpt2", ["of_gpt2"]),
    ],
)
def test_bases_of_all_kinds(zoo, base, arms):
    prompts = random_prompts((3, 61, 17, 30), seed=5)
    alphas = [[0.6, -0.4, 0.8][: len(arms)], 0.4, 0, [0, 1.0, 0][: len(arms)]]
    alphas[3] = alphas[3] if len(arms) > 1 else -0.6
    found = generate(start(zoo.compose(base, arms)), prompts, [params(alpha) for alpha in alphas])
    assert found == expected(zoo, arms, prompts, alphas, base=base)
    assert found[0] != expected(zoo, arms, prompts[:1], [0], base=base)[0]


def test_preemption_chunks_and_cached_prefixes(zoo, monkeypatch):
    """Blocks for two requests and a half: requests are thrown out and read again, in chunks of 16 tokens."""
    from vllm.v1.core.sched.scheduler import Scheduler

    preempt, preempted = Scheduler._preempt_request, []
    monkeypatch.setattr(
        Scheduler,
        "_preempt_request",
        lambda self, request, *args, **kwargs: (preempted.append(1), preempt(self, request, *args, **kwargs))[1],
    )
    engine = start(
        zoo.compose("base", ["attention", "everywhere"], [0.7, -0.3]),
        num_gpu_blocks_override=8,
        block_size=32,
        max_model_len=128,
        max_num_batched_tokens=16,
        enable_prefix_caching=True,
    )
    prefix = random_prompts([48], seed=6)[0]
    prompts = [prefix + prompt for prompt in random_prompts((5, 1, 20, 9), seed=7)]
    alphas = [1.0, 0, [-0.5, 0.2], None]
    arms = ["attention", "everywhere"]
    found = generate(engine, prompts, [params(alpha, 24) for alpha in alphas])
    assert found == expected(zoo, arms, prompts, alphas, [0.7, -0.3], 24)
    assert preempted
    again = engine.generate({"prompt_token_ids": prompts[2]}, params(0.3, 24), use_tqdm=False)[0]
    assert again.num_cached_tokens >= 48
    assert list(again.outputs[0].token_ids) == zoo.expected("base", arms, prompts[2], 0.3, 24)


def test_weights_are_held_once(zoo):
    """Of the base and of the adapters' files, and nothing else; keys and values are each stream's own."""
    from vllm.config import get_layers_from_vllm_config
    from vllm.model_executor.layers.attention import Attention

    def sizes(engine):
        """Bytes of the parameters, and how many layers have keys and values."""
        runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
        tensors = {parameter.data_ptr(): parameter for parameter in runner.get_model().parameters()}
        layers = get_layers_from_vllm_config(runner.vllm_config, Attention)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()), len(layers)

    arms = ["attention", "everywhere"]
    files = [load_file(zoo.folder / name / "adapter_model.safetensors") for name in arms]
    adapters = sum(tensor.numel() * tensor.element_size() for tensors in files for tensor in tensors.values())
    weights, layers = sizes(start(zoo.path("base")))
    assert sizes(start(zoo.compose("base", arms))) == (weights + adapters, 3 * layers)


def test_weights_that_are_loaded_again_replace_the_old(zoo):
    engine = start(zoo.compose("base", ["everywhere"]))
    prompts = random_prompts([9, 4], seed=8)
    engine.collective_rpc("reload_weights")
    assert generate(engine, prompts, params(0.8)) == expected(zoo, ["everywhere"], prompts, [0.8, 0.8])


def test_nothing_is_compiled(zoo):
    """Rows are more than the tokens that vLLM compiles for."""
    engine = start(zoo.compose("base", ["everywhere"]), enforce_eager=False)
    config = engine.llm_engine.vllm_config
    assert config.model_config.enforce_eager and config.compilation_config.mode.name == "NONE"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_tokens_of_two_processes_are_those_of_one(zoo):
    """Heads divide among them, but for the single one of keys and values, which both have."""
    arms, prompts = ["attention", "everywhere"], random_prompts((3, 40, 17))
    alphas = [[0.6, -0.4], 0, 0.5]
    bound = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    found = generate_apart(zoo.compose("base", arms), prompts, alphas, bound, tensor_parallel_size=2)
    assert found == expected(zoo, arms, prompts, alphas)


# ---------------------------------------------------------------------- what is refused


def configure(folder, **options):
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(str(folder), **{"dtype": "float32", "enforce_eager": True} | options).create_engine_config()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quantization": "fp8", "dtype": "bfloat16"}, "on quantised weights of the base are not supported"),
        ({"load_format": "dummy"}, "leaves LoRA reward models out"),
        ({"enable_lora": True}, "LoRA requests would change the base alone"),
    ],
)
def test_ways_of_serving_that_would_lose_adapters_are_refused(zoo, options, reason):
    with pytest.raises(ValueError, match=reason):
        configure(zoo.compose("base", ["attention"]), **options)


def test_a_reward_model_that_has_become_another_kind(zoo):
    folder = zoo.compose("base", ["attention"])
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields["genarm_arms"][0] |= {"model": zoo.path("same")}
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"compose` wrote config.json.*Write it again"):
        configure(folder)


def test_an_adapter_that_does_not_fit(zoo):
    """It names the base, and was trained on a smaller one."""
    _adapter(zoo, "small", "base", False, {"r": 2, "target_modules": ATTENTION})
    file = zoo.folder / "small" / "adapter_model.safetensors"
    save_file({key: tensor[:, :32].contiguous() for key, tensor in load_file(file).items()}, file)
    with pytest.raises(ValueError, match=r"does not fit it at model.layers.0.self_attn.q_proj: A \(2, 32\)"):
        start(_composed_of(zoo, "small"))


def test_an_adapter_without_weights_is_not_taken_for_the_base(zoo, monkeypatch):
    from genarm_hf.integrations.vllm import joint_model

    monkeypatch.setattr(joint_model, "sources", lambda places: [])
    with pytest.raises(RuntimeError, match="no weights of arm0"):
        start(zoo.compose("base", ["attention"]))


def _composed_of(zoo, name):
    from genarm_hf.integrations.vllm.composition import compose, open_part, write

    write(compose(open_part(zoo.path("base")), [open_part(str(zoo.folder / name))]), zoo.folder / f"of-{name}")
    return zoo.folder / f"of-{name}"
