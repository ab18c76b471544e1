"""Which token sees which, and which models may read a prompt once for two responses."""

from typing import Any

import pytest
import torch

from genarm_hf.training import pair_forward
from genarm_hf.training.batches import PairCollator
from genarm_hf.training.chunked_head import LogitTransform
from genarm_hf.training.pair_forward import Method, PairForward, choose_method, sum_by_response, tree_masks

from ..conftest import VOCAB, tiny

ROWS = [
    {"prompt_ids": [5, 6, 7, 8, 9, 10, 11, 12], "chosen_ids": [13, 14, 15], "rejected_ids": [16, 2]},
    {"prompt_ids": [20, 21], "chosen_ids": [22, 23], "rejected_ids": [24]},
    {"prompt_ids": [30, 31, 32], "chosen_ids": [33], "rejected_ids": [34, 35]},
]


def reference(model: Any, rows: list[Any] = ROWS) -> torch.Tensor:
    """`(pairs, 2)`, every response in a forward of its own, by all of its logits."""

    def logp(row: Any, name: str) -> torch.Tensor:
        ids = torch.tensor([row["prompt_ids"] + row[name]])
        logprobs = model(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
        return logprobs[len(row["prompt_ids"]) - 1 :].sum()

    return torch.stack([torch.stack([logp(row, "chosen_ids"), logp(row, "rejected_ids")]) for row in rows])


def read(model: Any, method: Method, rows: list[Any] = ROWS) -> torch.Tensor:
    batch = PairCollator(0, method.share_prompts)(rows)
    return PairForward(model, method)(model, batch["parts"][0])[batch["order"].argsort()]


def test_who_sees_whom_by_hand() -> None:
    row = {"prompt_ids": [5, 6], "chosen_ids": [7, 8], "rejected_ids": [9]}
    short = {"prompt_ids": [3], "chosen_ids": [4], "rejected_ids": [2]}
    (part,) = PairCollator(0)([row, short])["parts"]
    mask = tree_masks(part, tiny())
    assert mask.dtype == torch.float32 and mask.shape == (2, 1, 5, 5)
    seen = (mask == 0).int()[:, 0].tolist()
    assert seen[0] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    # padding sees padding, so that no row of the softmax is empty
    assert seen[1] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert (mask[mask != 0] == torch.finfo(torch.float32).min).all()


def test_windows_are_of_positions() -> None:
    row = {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9], "rejected_ids": [10]}
    (part,) = PairCollator(0)([row])["parts"]
    windowed = tree_masks(part, tiny("mistral", sliding_window=2))
    assert (windowed[0, 0, 5] == 0).tolist() == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]  # two places, whoever is between
    both = tree_masks(part, tiny("gemma", sliding_window=2))
    assert set(both) == {"full_attention", "sliding_attention"}
    assert (both["full_attention"][0, 0, 5] == 0).tolist() == [True, True, True, False, False, True]
    assert torch.equal(both["sliding_attention"], windowed)


def test_sums() -> None:
    logps = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    assert sum_by_response(logps, torch.tensor([[2, 1], [1, 1]])).tolist() == [[3.0, 8.0], [4.0, 16.0]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mistral", "gemma"])
def test_every_method_reads_the_same(kind: str, attention: str) -> None:
    """Eager attention too, which misreads masks that are not additive; windows shorter than the rows; capped logits."""
    if (kind, attention) == ("gemma", "sdpa"):
        pytest.skip("Gemma 2 has eager attention only")
    model = tiny(kind, attn_implementation=attention)
    expected = reference(model)
    assert choose_method(model) == Method(True, True, None)
    for method in (Method(True, True), Method(False, True), Method(False, False)):
        torch.testing.assert_close(read(model, method), expected, atol=2e-4, rtol=1e-4)


def test_the_models_own_forward_comes_back() -> None:
    model = tiny()
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    read(model, Method())
    assert "forward" not in vars(model) and torch.equal(model(ids).logits, before)
    model.forward = model.forward  # as accelerate leaves it
    kept = model.forward
    with pytest.raises(IndexError):
        read(model, Method(), [ROWS[0] | {"prompt_ids": [10**6]}])
    assert model.forward is kept


def _other(kind: str) -> Any:
    import transformers as hf

    small: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4}
    configs = {
        "mamba": lambda: hf.MambaConfig(**small, state_size=8),
        "bloom": lambda: hf.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4),
        "alibi": lambda: hf.FalconConfig(**small, **heads, alibi=True),
        "local": lambda: hf.GPTNeoConfig(
            vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
        ),
        "hybrid": lambda: hf.FalconH1Config(
            **small, **heads, intermediate_size=48, num_key_value_heads=2, mamba_d_ssm=32, mamba_n_heads=4,
            mamba_d_head=8, mamba_d_state=8,
        ),
        "bert": lambda: hf.BertConfig(**small, **heads, intermediate_size=48, is_decoder=True),
        "granite": lambda: hf.GraniteConfig(
            **small, **heads, intermediate_size=48, num_key_value_heads=2, logits_scaling=0.1
        ),
        "opt": lambda: hf.OPTConfig(**small, **heads, ffn_dim=48, word_embed_proj_dim=16),
    }  # fmt: skip
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(configs[kind]()).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0)  # peaked distributions: what is read wrongly shows
    return model


@pytest.mark.parametrize(
    ("kind", "share", "skip", "reason"),
    [
        ("mamba", False, True, "recurrent"),
        ("hybrid", False, True, "recurrent"),
        ("bloom", False, True, "does not take positions"),
        ("alibi", False, True, "ALiBi"),
        ("local", False, True, "places, not positions"),
        ("bert", False, False, "would be off by"),
        ("granite", True, True, None),
        ("opt", True, True, None),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_models_that_cannot_fall_back_and_stay_exact(kind: str, share: bool, skip: bool, reason: str | None) -> None:
    model = _other(kind)
    method = choose_method(model)
    assert (method.share_prompts, method.skip_logits) == (share, skip)
    assert reason is None if method.reason is None else reason in method.reason
    torch.testing.assert_close(read(model, method), reference(model), atol=5e-4, rtol=1e-4)


def test_an_attention_without_masks_is_no_way_to_share() -> None:
    model = tiny()
    model.config._attn_implementation = "flash_attention_2"
    assert "attn_implementation='sdpa'" in pair_forward.why_not_shared(model)


def test_an_unknown_treatment_of_logits_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that caps its logits in a way that no rule knows of is read by its own logits."""
    monkeypatch.setattr(LogitTransform, "of", classmethod(lambda cls, config: cls()))
    model = tiny("gemma", final_logit_softcapping=2.0)
    method = choose_method(model)
    assert not method.skip_logits and "would be off by" in str(method.reason)
    torch.testing.assert_close(read(model, method), reference(model), atol=2e-4, rtol=1e-4)


def test_a_model_that_mixes_the_responses_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(part: Any, causal_lm: Any) -> torch.Tensor:
        return torch.zeros(part["input_ids"].shape[0], 1, *[part["input_ids"].shape[1]] * 2)

    monkeypatch.setattr(pair_forward, "tree_masks", blind)
    method = choose_method(tiny())
    assert not method.share_prompts and method.skip_logits and "would be off by" in str(method.reason)


def test_what_cannot_be_tried_is_trusted_only_if_its_type_is_known() -> None:
    """Sharded and absent weights: a head that no rule knows of would be silently wrong."""
    with torch.device("meta"):
        known, unknown = tiny(), _other("bert")
    assert choose_method(known) == Method(True, True, None)
    assert not choose_method(unknown).skip_logits


def test_sharing_can_be_switched_off() -> None:
    assert choose_method(tiny(), share_prompts=False) == Method(False, True, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_is_tried_with_its_own_tolerance(dtype: torch.dtype) -> None:
    assert choose_method(tiny().to(dtype)) == Method(True, True, None)


def test_random_state_and_mode_stay() -> None:
    model, state = tiny().train(), torch.get_rng_state()
    choose_method(model)
    assert torch.equal(torch.get_rng_state(), state) and all(module.training for module in model.modules())
