"""Random arguments of the public functions and classes: a result, or an error that is one clear sentence."""

import contextlib
import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, TrainingArguments

import genarm_hf
from genarm_hf import AutoregressiveRewardModel, GenARMConfig, GenARMLogitsProcessor, ImplicitRewardModel
from genarm_hf.training import ARMTrainingArguments, load_preferences

from ..cli.conftest import build_tokenizer
from ..conftest import VOCAB, tiny
from ..reward_models import lora
from . import material
from .clear import unclear

EXAMPLES = int(os.environ.get("GENARM_HF_FUZZ", "60"))
_NAN, _INF = float("nan"), float("inf")


# ---------------------------------------------------------------------- things to pass


@cache
def _made(name: str) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "base": lambda: tiny("llama"),
        "gpt2": lambda: tiny("gpt2", seed=1),
        "short": lambda: tiny("gpt2", seed=1, n_positions=8),
        "wide": lambda: tiny("llama", vocab_size=400),
        "padded": lambda: tiny("llama", seed=2, vocab_size=64),
        "t5": lambda: tiny("t5"),
        "half": lambda: tiny("llama", seed=3).to(torch.bfloat16),
        "training": lambda: tiny("gpt2", seed=4).train(),
        "arm": lambda: AutoregressiveRewardModel.from_backbone(tiny("gpt2", seed=1), beta=0.1, alpha=0.5),
        "templated": lambda: AutoregressiveRewardModel.from_backbone(tiny("gpt2"), prompt_template="w4 {prompt} w5"),
        "lora": lambda: lora(tiny("llama")),
        "on-base": lambda: AutoregressiveRewardModel.from_backbone(lora(tiny("llama"))),
        "implicit": lambda: ImplicitRewardModel(tiny("llama", seed=5), tiny("llama", seed=6)),
        "guided": lambda: genarm_hf.guide(tiny("llama"), tiny("gpt2")),
        "linear": lambda: torch.nn.Linear(2, 2),
        "headless": lambda: tiny("llama").model,
        "tokenizer": build_tokenizer,
        "class": lambda: AutoregressiveRewardModel,
        "config": lambda: GenARMConfig(text_config=tiny("llama").config),
    }
    return makers[name]()


def made(*names: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(names).map(_made)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 10**30, -0.0, _NAN, _INF, -_INF, 1e30, 1j, "", " ", "x", "1", "\udcff", b"1", ...]),
    st.sampled_from(
        [[], [[]], [None], ["x"], (), {}, {1}, {"a": 1}, {"input_ids": None}, object, int, print, range(2)]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-2, 60), max_size=3),
)
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
DTYPES = st.sampled_from([torch.long, torch.int32, torch.float32, torch.bfloat16, torch.bool, torch.complex64])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any shape and dtype, with values from an empty, ordinary or impossible range."""
    shape, fill = draw(SHAPES), draw(st.sampled_from([0, 1, 5, -1, VOCAB, 10**6, _NAN, _INF, -_INF]))
    dtype = draw(DTYPES)
    return torch.full(shape, fill if dtype.is_floating_point or abs(fill) < _INF else 1, dtype=dtype)


def ids() -> st.SearchStrategy[torch.Tensor]:
    """Token ids of the right kind."""
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 6))
    return shapes.map(lambda shape: torch.arange(3, 3 + shape[0] * shape[1]).reshape(shape) % VOCAB)


MODELS = ("base", "gpt2", "short", "wide", "padded", "half", "training", "arm", "templated", "lora", "on-base")
REWARDS = made(*MODELS, "implicit")
THINGS = st.one_of(
    made(*MODELS, "implicit", "t5", "guided", "linear", "headless", "tokenizer", "class", "config"), JUNK
)
REWARD_MODELS = st.one_of(REWARDS, st.lists(REWARDS, min_size=1, max_size=2), st.lists(THINGS, max_size=2), THINGS)
ALPHAS = st.one_of(
    st.floats(-2, 2),
    st.lists(st.floats(-2, 2), min_size=1, max_size=3),
    tensors(),
    JUNK,
    st.one_of(JUNK, st.floats(-2, 2)).map(lambda value: lambda step: value),
    st.just(lambda: 1.0),
    st.just(lambda step: 1.0 if step < 2 else "x"),
    st.just(lambda step: 1.0 if step < 2 else [1.0] * 7),
)
MASKS = st.one_of(ids().map(torch.ones_like), tensors(), JUNK)
REWARD_INPUTS = st.one_of(
    st.none(),
    ids(),
    st.builds(lambda given, mask: {"input_ids": given, "attention_mask": mask}, ids(), MASKS),
    st.lists(st.one_of(st.none(), ids(), tensors(), JUNK), max_size=2),
    tensors(),
    JUNK,
)
TOKENIZERS = st.one_of(made("tokenizer"), st.none(), JUNK)
TEXTS = st.one_of(st.just("w5 w6"), st.lists(st.sampled_from(["w5", "w6 w7", "", "é"]), max_size=3), JUNK)
NUMBERS = st.one_of(st.floats(0.01, 2), JUNK)


def optional(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these keyword arguments."""
    return st.fixed_dictionaries({}, optional=strategies)


# ---------------------------------------------------------------------- calls


def _generate(prompt: Any, reward_models: Any, ours: dict[str, Any], theirs: dict[str, Any]) -> Any:
    return _made("base").generate(prompt, reward_models=reward_models, max_new_tokens=3, **ours, **theirs)


_GUIDE: dict[str, st.SearchStrategy[Any]] = {
    "alpha": ALPHAS,
    "reward_inputs": REWARD_INPUTS,
    "reward_tokenizers": st.one_of(TOKENIZERS, st.lists(TOKENIZERS, max_size=2)),
    "share_backbone": st.one_of(st.booleans(), JUNK),
}
OURS, GUIDE = (
    optional(output_rewards=st.one_of(st.booleans(), JUNK), **_GUIDE),
    optional(tokenizer=TOKENIZERS, **_GUIDE),
)
MODES = st.sampled_from(
    [
        {},
        {"do_sample": False},
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 2, "do_sample": False},
        {"prompt_lookup_num_tokens": 2},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"return_dict_in_generate": True},
        {"return_dict_in_generate": True, "output_logits": True},
    ]
)


def _forward(reward_models: Any, ours: dict[str, Any], forward: dict[str, Any]) -> Any:
    return genarm_hf.guide(_made("base"), reward_models, **ours)(**forward)


def _config(fields: dict[str, Any]) -> Any:
    config = GenARMConfig(**fields)
    return GenARMConfig.from_dict(config.to_dict())


def _process(reward_models: Any, ours: dict[str, Any], calls: list[tuple[Any, Any]]) -> Any:
    processor = GenARMLogitsProcessor(reward_models, **ours)
    return [processor(*call) for call in calls]


def _reward(model: Any, method: str, arguments: dict[str, Any]) -> Any:
    return getattr(model, method)(**arguments)


def _configured(names: Any, alpha: Any) -> Any:
    config = GenerationConfig(max_new_tokens=2)
    config.reward_models, config.alpha = names, alpha
    return _made("base").generate(torch.tensor([[5, 6]]), generation_config=config)


def _arguments(fields: dict[str, Any]) -> Any:
    return ARMTrainingArguments("/tmp/never-written", use_cpu=True, **fields)


FIELDS = optional(
    text_config=st.one_of(
        made("base").map(lambda model: model.config), JUNK, st.just({"model_type": "llama", "vocab_size": "x"})
    ),
    beta=NUMBERS,
    alpha=NUMBERS,
    objective=st.one_of(st.just("helpful"), JUNK),
    prompt_template=st.one_of(
        st.just("{prompt}"), st.sampled_from(["{}", "{prompt!x}", "{prompt:d}", "{prompt.a}"]), JUNK
    ),
    adapter=st.one_of(st.just({"type": "LORA", "base_model_name_or_path": "a"}), JUNK),
)
SCORED = st.fixed_dictionaries(
    {"tokenizer": TOKENIZERS, "prompts": TEXTS, "responses": TEXTS},
    optional={"batch_size": st.one_of(st.just(2), JUNK), "append_eos": st.booleans()},
)
MASKED = st.fixed_dictionaries(
    {"input_ids": st.one_of(ids(), tensors(), JUNK)}, optional={"attention_mask": MASKS, "response_mask": MASKS}
)
EXPLAINED = st.fixed_dictionaries(
    {"tokenizer": TOKENIZERS, "prompt": TEXTS, "response": TEXTS}, optional={"base": st.one_of(REWARDS, THINGS)}
)
ROWS = st.one_of(
    st.lists(
        st.one_of(
            st.fixed_dictionaries(
                {},
                optional={
                    name: st.one_of(st.sampled_from(["a", "b c", ""]), JUNK)
                    for name in ("prompt", "chosen", "rejected", "margin", "score_chosen", "messages", "conversations")
                },
            ),
            st.sampled_from(material.PAIRS),
            JUNK,
        ),
        max_size=3,
    ),
    JUNK.filter(lambda value: not isinstance(value, str)),
)
OWN_ARGUMENTS = [field.name for field in fields(ARMTrainingArguments)[len(fields(TrainingArguments)) :]]

CALLS: dict[str, tuple[float, Any, st.SearchStrategy[tuple]]] = {
    "generate": (0.08, _generate, st.tuples(ids(), REWARD_MODELS, OURS, MODES)),
    "guide": (0.05, _forward, st.tuples(REWARD_MODELS, GUIDE, st.fixed_dictionaries({"input_ids": ids()}))),
    "score": (0.03, _reward, st.tuples(made("arm", "templated", "implicit", "on-base"), st.just("score"), SCORED)),
    "token_rewards": (0.03, _reward, st.tuples(made("arm", "implicit"), st.just("token_rewards"), MASKED)),
    "explain": (0.02, _reward, st.tuples(made("arm"), st.just("explain"), EXPLAINED)),
    "config": (0.03, _config, st.tuples(FIELDS)),
    "backbone": (
        0.02,
        lambda backbone, fields: AutoregressiveRewardModel.from_backbone(backbone, **fields),
        st.tuples(THINGS, optional(beta=NUMBERS, alpha=NUMBERS, objective=JUNK, prompt_template=JUNK)),
    ),
    "implicit": (0.02, ImplicitRewardModel, st.tuples(THINGS, THINGS)),
    "processor": (
        0.04,
        _process,
        st.tuples(
            REWARD_MODELS,
            optional(
                alpha=ALPHAS,
                attention_mask=st.one_of(ids().map(torch.ones_like), tensors(), JUNK),
                reward_inputs=REWARD_INPUTS,
                base=THINGS,
                tokenizer=TOKENIZERS,
                reward_tokenizers=TOKENIZERS,
                renormalize=JUNK,
            ),
            st.lists(
                st.tuples(
                    st.one_of(ids(), tensors(), JUNK),
                    st.one_of(st.integers(1, 3).map(lambda rows: torch.zeros(rows, VOCAB)), tensors(), JUNK),
                ),
                max_size=2,
            ),
        ),
    ),
    "generation config": (0.01, _configured, st.tuples(st.one_of(JUNK, st.just(["./gone"])), ALPHAS)),
    "training arguments": (
        0.01,
        _arguments,
        st.tuples(
            st.dictionaries(
                st.sampled_from(OWN_ARGUMENTS),
                st.one_of(NUMBERS, JUNK),
                max_size=3,
            )
        ),
    ),
    "preferences": (0.02, load_preferences, st.tuples(ROWS)),
}


@pytest.mark.filterwarnings("default")
def test_repositories_with_a_wrong_field(tmp_path: Path) -> None:
    """One field of one json file of a saved model, reward model or adapter is not what it should be."""
    material.build(tmp_path / "material")

    @_settings(0.08)
    @given(
        st.sampled_from(["base", "arm", "lora", "lora"]),
        st.integers(0, 400),
        st.sampled_from(material.WRONG_VALUES),
        st.booleans(),
    )
    def check(name: str, which: int, value: Any, shared: bool) -> None:
        problem = with_a_wrong_field(tmp_path, name, which, value, shared)
        assert problem is None, problem

    check()


def with_a_wrong_field(place: Path, name: str, which: int, value: Any, shared: bool) -> str | None:
    """What is wrong with how loading ended; None where nothing is."""
    folder = place / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "material" / name, folder)
    changes = material.fields_of(folder)
    file, key = changes[which % len(changes)]
    material.set_field(file, key, value)(folder)
    base = {"base_model": _made("base")} if shared and name == "lora" else {}
    problem = problem_of(lambda: AutoregressiveRewardModel.from_pretrained(folder, **base), ())
    return None if problem is None else f"{name}, {file}: {key} = {value!r}\n{problem}"


@contextlib.contextmanager
def _within(folder: Path) -> Any:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def problem_of(call: Callable[..., Any], arguments: tuple) -> str | None:
    """What is wrong with how a call ended; None where nothing is."""
    try:
        call(*arguments)
    except Exception as error:
        reason = unclear(error)
        if reason is None:
            return None
        return f"{reason}\n{''.join(traceback.format_exception(error))[-3000:]}"
    return None


def _settings(share: float) -> Any:
    return settings(
        max_examples=max(int(EXAMPLES * share), 2),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", list(CALLS))
def test_a_result_or_one_sentence(name: str, tmp_path: Path) -> None:
    share, call, arguments = CALLS[name]

    @_settings(share)
    @given(arguments)
    def check(values: tuple) -> None:
        problem = problem_of(call, values)
        assert problem is None, problem

    with _within(tmp_path):
        check()
