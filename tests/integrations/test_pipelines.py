"""`pipeline()` with reward models gives what `generate()` gives."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import pipeline, set_seed

import genarm_hf
from genarm_hf.integrations import pipelines as ours

from ..conftest import PAD, tiny

PROMPTS = ["w1 w2 w3 w4", "w5 w6", "w7 w8 w9"]
CHATS = [[{"role": "user", "content": text}] for text in PROMPTS[:2]]
SETTINGS = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": PAD}
TASKS = ["text-generation", ours.TASK]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(level)


@pytest.fixture
def base() -> Any:
    return tiny("llama")


@pytest.fixture
def arms() -> list[Any]:
    return [tiny("gpt2", seed=1), tiny("mistral", seed=2)]


def direct(base: Any, tokenizer: Any, texts: Any, chat: bool = False, **kwargs: Any) -> list[list[int]]:
    """New ids of each text (alone, without padding), by `generate()`."""
    rows = []
    for text in texts:
        if chat:
            inputs = tokenizer.apply_chat_template(
                text, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        else:
            inputs = tokenizer(text, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        output = base.generate(**inputs, **SETTINGS, **kwargs)
        rows.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return rows


def new_text(tokenizer: Any, rows: list[list[int]]) -> list[str]:
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def texts_of(records: Any) -> list[str]:
    return [(record[0] if isinstance(record, list) else record)["generated_text"].strip() for record in records]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("where", ["init", "call"])
@pytest.mark.parametrize("task", TASKS)
def test_batches_equal_generate(
    base: Any, arms: list[Any], tokenizer: Any, task: str, where: str, batch_size: int
) -> None:
    guidance = {"reward_models": arms, "alpha": [0.8, -0.3]}
    generator = pipeline(task, model=base, tokenizer=tokenizer, device="cpu", **guidance if where == "init" else {})
    call = SETTINGS | (guidance if where == "call" else {})
    records = generator(PROMPTS, batch_size=batch_size, return_full_text=False, **call)
    assert texts_of(records) == new_text(tokenizer, direct(base, tokenizer, PROMPTS, **guidance))


@pytest.mark.parametrize("task", TASKS)
def test_the_call_overrides_init(base: Any, arms: list[Any], tokenizer: Any, task: str) -> None:
    generator = pipeline(
        task, model=base, tokenizer=tokenizer, device="cpu", reward_models=arms[0], alpha=0.8, return_full_text=False
    )
    for guidance in ({"alpha": 2.0}, {"alpha": 0.0}, {"reward_models": arms, "alpha": [0.5, 1.0]}):
        expected = direct(base, tokenizer, PROMPTS, **{"reward_models": arms[:1], "alpha": 0.8} | guidance)
        assert texts_of(generator(PROMPTS, **SETTINGS, **guidance)) == new_text(tokenizer, expected)
    # nothing of a call stays behind
    expected = direct(base, tokenizer, PROMPTS, reward_models=arms[:1], alpha=0.8)
    assert texts_of(generator(PROMPTS, **SETTINGS)) == new_text(tokenizer, expected)


@pytest.mark.parametrize("task", TASKS)
def test_single_prompts_and_chats(base: Any, arms: list[Any], tokenizer: Any, task: str) -> None:
    guidance = {"reward_models": arms, "alpha": 0.7}
    generator = pipeline(task, model=base, tokenizer=tokenizer, device="cpu", **guidance)
    expected = new_text(tokenizer, direct(base, tokenizer, CHATS, chat=True, **guidance))
    for batch_size in (1, 2):
        records = generator(CHATS, batch_size=batch_size, **SETTINGS)
        replies = [record[0]["generated_text"][-1] for record in records]
        assert [reply["role"] for reply in replies] == ["assistant"] * 2
        assert [reply["content"].strip() for reply in replies] == expected
    single = generator(PROMPTS[1], return_full_text=False, **SETTINGS)
    assert texts_of(single) == new_text(tokenizer, direct(base, tokenizer, PROMPTS[1:2], **guidance))


@pytest.mark.parametrize("task", TASKS)
def test_streamed_inputs(base: Any, arms: list[Any], tokenizer: Any, task: str) -> None:
    generator = pipeline(
        task, model=base, tokenizer=tokenizer, device="cpu", reward_models=arms, alpha=0.7, return_full_text=False
    )
    records = list(generator((text for text in PROMPTS), batch_size=2, **SETTINGS))
    assert texts_of(records) == new_text(tokenizer, direct(base, tokenizer, PROMPTS, reward_models=arms, alpha=0.7))


@pytest.mark.parametrize("task", TASKS)
def test_rows_with_trade_offs_of_their_own(base: Any, arms: list[Any], tokenizer: Any, task: str) -> None:
    """They fit where all prompts are one batch, and are refused where the pipeline would cut batches."""
    alpha = torch.tensor([[0.9, -0.3], [0.0, 1.2], [0.4, 0.0]])
    generator = pipeline(task, model=base, tokenizer=tokenizer, device="cpu", reward_models=arms)
    records = generator(PROMPTS, alpha=alpha, batch_size=3, return_full_text=False, **SETTINGS)
    expected = [
        direct(base, tokenizer, [text], reward_models=arms, alpha=row)[0]
        for text, row in zip(PROMPTS, alpha, strict=True)
    ]
    assert texts_of(records) == new_text(tokenizer, expected)
    for batch_size in (1, 2):
        with pytest.raises(ValueError, match=r"alpha.*3 rows.*batch_size=len\(prompts\)"):
            generator(PROMPTS, alpha=alpha, batch_size=batch_size, **SETTINGS)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "top_k": 0}])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_rewards_are_those_of_the_response(
    base: Any, arms: list[Any], tokenizer: Any, batch_size: int, mode: dict[str, Any]
) -> None:
    generator = pipeline(ours.TASK, model=base, tokenizer=tokenizer, device="cpu", reward_models=arms, alpha=0.7)
    set_seed(0)
    records = generator(PROMPTS, batch_size=batch_size, return_tensors=True, **SETTINGS | mode)
    wrapped = [genarm_hf.AutoregressiveRewardModel.from_backbone(arm) for arm in arms]
    for text, group in zip(PROMPTS, records, strict=True):
        assert len(group) == mode.get("num_return_sequences", 1)
        prompt = tokenizer(text)["input_ids"]
        for record in group:
            ids = [i for i in record["generated_token_ids"] if i != PAD]
            assert ids[: len(prompt)] == prompt
            rewards = [arm.token_rewards(torch.tensor([ids]))[0, len(prompt) :].sum() for arm in wrapped]
            torch.testing.assert_close(torch.tensor(record["rewards"]), torch.stack(rewards), atol=1e-3, rtol=1e-4)


def test_the_task_takes_a_guided_model(base: Any, arms: list[Any], tokenizer: Any) -> None:
    guided = genarm_hf.guide(base, arms, [0.8, -0.3])
    expected = direct(base, tokenizer, PROMPTS, reward_models=arms, alpha=[0.8, -0.3])
    for task in TASKS:
        generator = pipeline(task, model=guided, tokenizer=tokenizer, device="cpu", return_full_text=False)
        records = generator(PROMPTS, batch_size=2, **SETTINGS)
        assert texts_of(records) == new_text(tokenizer, expected)
    assert len(records[0][0]["rewards"]) == 2


def test_reward_models_by_name(base: Any, arms: list[Any], tokenizer: Any, tmp_path: Path) -> None:
    for name, model in [("base", base), ("arm", genarm_hf.AutoregressiveRewardModel.from_backbone(arms[0], beta=0.1))]:
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    expected = direct(base, tokenizer, PROMPTS, reward_models=arms[:1], alpha=0.7)
    for task in TASKS:
        generator = pipeline(
            task, model=str(tmp_path / "base"), device="cpu", reward_models=[str(tmp_path / "arm")], alpha=0.7
        )
        assert texts_of(generator(PROMPTS, return_full_text=False, **SETTINGS)) == new_text(tokenizer, expected)


def test_an_empty_list_switches_off(base: Any, arms: list[Any], tokenizer: Any) -> None:
    generator = pipeline("text-generation", model=base, tokenizer=tokenizer, device="cpu", reward_models=arms, alpha=2)
    records = generator(PROMPTS, reward_models=[], return_full_text=False, **SETTINGS)
    assert texts_of(records) == new_text(tokenizer, direct(base, tokenizer, PROMPTS))


def test_without_reward_models(base: Any, tokenizer: Any) -> None:
    generator = pipeline("text-generation", model=base, tokenizer=tokenizer, device="cpu", return_full_text=False)
    assert texts_of(generator(PROMPTS, **SETTINGS)) == new_text(tokenizer, direct(base, tokenizer, PROMPTS))
    with pytest.raises(ValueError, match="reward_models"):
        generator(PROMPTS, alpha=0.5, **SETTINGS)
    task = pipeline(ours.TASK, model=base, tokenizer=tokenizer, device="cpu")
    with pytest.raises(ValueError, match="reward_models"):
        task(PROMPTS, **SETTINGS)


def test_text_generation_has_no_place_for_rewards(base: Any, arms: list[Any], tokenizer: Any) -> None:
    generator = pipeline("text-generation", model=base, tokenizer=tokenizer, device="cpu", reward_models=arms)
    with pytest.raises(ValueError, match="reward-guided-generation"):
        generator(PROMPTS, output_rewards=True, return_dict_in_generate=True, **SETTINGS)


class _Elsewhere(torch.nn.Module):
    """A reward model on another device, as far as anyone can tell."""

    is_quantized = False

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("meta")

    def to(self, device: Any) -> Any:  # type: ignore[override]
        self.device = torch.device(device)
        return self


def test_reward_models_move_to_the_pipelines_device(base: Any, tokenizer: Any) -> None:
    cpu = torch.device("cpu")
    for task in TASKS:
        arm, spread, quantised = _Elsewhere(), _Elsewhere(), _Elsewhere()
        spread.hf_device_map, quantised.is_quantized = {"": 0}, True
        generator = pipeline(
            task, model=base, tokenizer=tokenizer, device="cpu", reward_models=[arm, spread, quantised]
        )
        with pytest.raises(TypeError, match=r"reward_models\[0\]"):  # which it is not really
            generator(PROMPTS[0], **SETTINGS)
        assert [model.device == cpu for model in (arm, spread, quantised)] == [True, False, False]


@pytest.mark.gpu
def test_reward_models_move_to_an_accelerator(base: Any, arms: list[Any], tokenizer: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected = new_text(tokenizer, direct(base, tokenizer, PROMPTS, reward_models=arms, alpha=0.7))
    for task in TASKS:
        generator = pipeline(task, model=base, tokenizer=tokenizer, device="cuda", return_full_text=False)
        records = generator(PROMPTS, reward_models=arms, alpha=0.7, batch_size=2, **SETTINGS)
        assert {arm.device.type for arm in arms} == {"cuda"}
        assert texts_of(records) == expected


def test_saving_saves_no_code(base: Any, arms: list[Any], tokenizer: Any, tmp_path: Path) -> None:
    pipeline(ours.TASK, model=base, tokenizer=tokenizer, device="cpu", reward_models=arms).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    again = pipeline(ours.TASK, model=str(tmp_path), device="cpu", reward_models=arms, alpha=0.7)
    expected = direct(base, tokenizer, PROMPTS, reward_models=arms, alpha=0.7)
    assert texts_of(again(PROMPTS, return_full_text=False, **SETTINGS)) == new_text(tokenizer, expected)


def test_registration_is_repeatable_and_reversible() -> None:
    registry, stock = transformers.pipelines.PIPELINE_REGISTRY, ours._stock["_forward"]
    hooked = transformers.TextGenerationPipeline._forward
    ours.register_pipelines(transformers.pipelines)
    assert transformers.TextGenerationPipeline._forward is hooked
    try:
        ours.unregister_pipelines(transformers.pipelines)
        assert transformers.TextGenerationPipeline._forward is stock
        assert ours.TASK not in registry.get_supported_tasks()
    finally:
        ours.register_pipelines(transformers.pipelines)
    assert ours.TASK in registry.get_supported_tasks()


def test_pipelines_are_imported_only_when_used() -> None:
    code = f"""
import sys
import genarm_hf
assert not any(name in sys.modules for name in ("transformers.pipelines", "genarm_hf.integrations"))
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY
assert "{ours.TASK}" in PIPELINE_REGISTRY.get_supported_tasks()
assert genarm_hf.RewardGuidedGenerationPipeline.__name__
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_task_works_where_generate_is_left_alone(base: Any, arms: list[Any], tokenizer: Any) -> None:
    expected = new_text(tokenizer, direct(base, tokenizer, PROMPTS, reward_models=arms, alpha=0.7))
    generator = pipeline(ours.TASK, model=base, tokenizer=tokenizer, device="cpu", reward_models=arms, alpha=0.7)
    genarm_hf.uninstall()
    try:
        records = generator(PROMPTS, batch_size=2, return_full_text=False, **SETTINGS)
    finally:
        genarm_hf.install()
    assert texts_of(records) == expected
