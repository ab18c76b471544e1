"""What is refused before an engine starts, and what vLLM's configuration of a composition says."""

import json

import pytest

from .conftest import VOCAB, build_tokenizer, start, tiny

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")


@pytest.fixture
def composed(zoo):
    return zoo.compose("base", ["window"], [0.5])


def configure(folder, **options):
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(str(folder), **{"dtype": "float32", "enforce_eager": True} | options).create_engine_config()


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def test_vllm_is_led_to_the_bases_weights_and_the_processor(zoo, composed):
    model_config = configure(composed).model_config
    assert model_config.model == zoo.path("base")
    assert model_config.tokenizer == model_config.served_model_name == str(composed)
    assert model_config.logits_processors == ["genarm_hf.integrations.vllm.processor:AlphaProcessor1"]
    assert model_config.logprobs_mode == "processed_logprobs"


def test_processors_of_the_user_are_kept(composed):
    found = configure(composed, logits_processors=["a.b:C"]).model_config.logits_processors
    assert found == ["a.b:C", "genarm_hf.integrations.vllm.processor:AlphaProcessor1"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
            "speculative decoding runs without logits processors",
        ),
        ({"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}, "pipeline parallelism is not tested"),
        ({"enable_lora": True}, "LoRA requests would change the base alone"),
        ({"load_format": "tensorizer"}, "reads one model"),
        ({"enable_prompt_embeds": True}, "what its reward models cannot read"),
        ({"runner": "pooling", "convert": "embed"}, "generates text|not support"),
    ],
)
def test_ways_of_serving_that_would_lose_guidance_are_refused(composed, options, reason):
    with pytest.raises(ValueError, match=reason):
        configure(composed, **options)


def test_positions_must_exist_in_every_model(zoo):
    folder = zoo.compose("base", ["gpt2"])
    assert configure(folder).model_config.max_model_len == 128
    assert configure(folder, max_model_len=100).model_config.max_model_len == 100
    with pytest.raises(ValueError, match="has 128 positions, and `--max-model-len` is 200"):
        configure(folder, max_model_len=200)


def test_an_untested_version_is_refused_by_name(composed, monkeypatch):
    monkeypatch.setattr("vllm.__version__", "0.33.0")
    with pytest.raises(ImportError, match=r"vllm>=0.32,<0.33, and 0.33.0 is installed"):
        configure(composed)


def test_a_folder_that_compose_did_not_write(composed):
    with pytest.raises(ValueError, match="genarm-hf compose"):
        configure(edit(composed, genarm_arms=[]))


def test_models_are_checked_again_at_start(zoo, composed, tmp_path):
    """They may have changed since."""
    other = {"revision": None, "alpha": 1.0}
    words = ["<pad>", "<s>", "</s>", *(f"x{i}" for i in range(3, VOCAB))]
    tiny("llama").save_pretrained(tmp_path / "words")
    build_tokenizer(words).save_pretrained(tmp_path / "words")
    with pytest.raises(ValueError, match="another vocabulary"):
        configure(edit(composed, genarm_arms=[other | {"model": str(tmp_path / "words")}]))
    tiny("gemma").save_pretrained(tmp_path / "gemma")
    with pytest.raises(ValueError, match=r"Gemma2ForCausalLM.*Supported are GPT2LMHeadModel, LlamaForCausalLM"):
        configure(edit(composed, genarm_arms=[other | {"model": str(tmp_path / "gemma")}]))
    with pytest.raises(ValueError, match="is not a directory"):
        configure(edit(composed, genarm_arms=[other | {"model": str(tmp_path / "gone")}]))


def test_windows_and_quantisation_are_each_models_own(composed):
    from genarm_hf.integrations.vllm.config import for_arms, for_base

    config = configure(composed, quantization="fp8", dtype="bfloat16")
    base, (own,) = for_base(config), for_arms(config)
    assert (base.cache_config.sliding_window, own.cache_config.sliding_window) == (None, 6)
    assert (base.model_config.quantization, own.model_config.quantization) == ("fp8", None)
    assert own.quant_config is None and base.quant_config is config.quant_config is not None
    assert own.model_config.hf_text_config.sliding_window == 6
    assert own.model_config.architectures == ["MistralForCausalLM"]


def test_overrides_of_the_user_reach_the_base(composed):
    from genarm_hf.integrations.vllm.config import for_arms, for_base

    config = configure(composed, hf_overrides={"rms_norm_eps": 0.25})
    assert for_base(config).model_config.hf_config.rms_norm_eps == 0.25
    assert for_arms(config)[0].model_config.hf_config.rms_norm_eps != 0.25


def test_compiled_code_depends_on_the_reward_models(zoo):
    """Their shapes are in the hash by which vLLM finds what it compiled before."""
    hashes = {configure(zoo.compose("base", [arm])).model_config.compute_hash() for arm in ("same", "deep")}
    assert len(hashes) == 2


def test_a_missing_processor_ends_the_start(composed, monkeypatch):
    from genarm_hf.integrations.vllm.rewards import Rewards

    monkeypatch.setattr(Rewards, "is_read", property(lambda self: False, lambda self, value: None))
    with pytest.raises(RuntimeError, match="unguided"):
        start(composed)


def test_a_server_that_passes_requests_by_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from genarm_hf.integrations.vllm.config import CompositionHook

    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(ValueError, match="past the checks of plugins"):
        CompositionHook.verify_and_update_model_config(None)
