"""What is told of a training: everything that makes it what it is, and no secrets."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from genarm_hf.training.metrics import preference_summary
from genarm_hf.training.record import command_line, training_record, versions

from .toys import arguments


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--hub-token", "abc", "--beta", "0.1"], "--hub-token '***' --beta 0.1"),
        (["--hub_token=abc"], "'--hub_token=***'"),
        (["--wandb-api-key", "-abc"], "--wandb-api-key '***'"),
        (["--password=a=b"], "'--password=***'"),
        (["hub.token=abc"], "'hub.token=***'"),
        (["--use-token", "--beta", "0.1"], "--use-token --beta 0.1"),
        (["--note", "mine is hf_abcdefghijk"], "--note 'mine is ***'"),
        (["--data", "https://me:secret@host/x.csv"], "--data 'https://***@host/x.csv'"),
        (["--max-tokens-per-batch", "4096"], "--max-tokens-per-batch 4096"),
        (["--tokenizer", "org/name"], "--tokenizer org/name"),
        (["--data", "a b.csv"], "--data 'a b.csv'"),
        (["--data", "https://u:p@h/x?token=abc&n=1"], "--data 'https://***@h/x?token=***&n=1'"),
        (["--data=https://u:p@h/x?token=abc"], "'--data=https://***@h/x?token=***'"),
        (["--data=https://u:p@ss@h/x"], "'--data=https://***@h/x'"),
        (["--data", "https://h/x?X-Amz-Signature=ab%2B&sig=c"], "--data 'https://h/x?X-Amz-Signature=***&sig=***'"),
        (["--data=https://h/x?design=a&me=b@c"], "'--data=https://h/x?design=a&me=b@c'"),
        (["--note=github_pat_11ABCDEFG0_xyz"], "'--note=***'"),
        (["--max-tokens-per-batch=4096"], "--max-tokens-per-batch=4096"),
        (["--tokenizer=org/name?token=abc"], "'--tokenizer=org/name?token=***'"),
    ],
)
def test_secrets_are_masked(arguments: list[str], expected: str) -> None:
    assert command_line(["train.py", *arguments]) == f"train.py {expected}"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/opt/bin/genarm-hf", "genarm-hf"),
        ("/opt/genarm_hf/cli/__main__.py", "genarm-hf"),
        ("", None),
        ("-c", None),
        ("-", None),
        ("/opt/ipykernel_launcher.py", None),
    ],
)
def test_the_program(program: str, expected: str | None) -> None:
    assert command_line([program]) == expected


def test_versions() -> None:
    assert {"python", "genarm-hf", "torch", "transformers", "peft"} <= versions().keys()


def test_record(tmp_path: Path) -> None:
    args = arguments(tmp_path, beta=0.2, hub_token="hf_abcdefghijk")
    held_out = preference_summary([-1.0], [-2.0], [3], [2], beta=0.2).to_dict()
    facts = {"data": "org/pairs", "pairs": 4, "fingerprint": "b363de1cdb853218"}
    record = training_record(args, **facts, seconds=12.0, held_out=held_out, argv=["train.py"])
    assert (record.pairs, record.fingerprint, record.command) == (4, "b363de1cdb853218", "train.py")
    assert record.hyperparameters["beta"] == 0.2 and record.hyperparameters["lr_scheduler_type"] == "cosine"
    assert record.held_out == held_out
    assert "max_steps" not in record.hyperparameters and "margin" not in record.hyperparameters
    assert training_record(arguments(tmp_path, seed=0), argv=["train.py"]).hyperparameters["seed"] == 0
    text = json.dumps(asdict(record))
    assert "hf_abc" not in text and json.loads(text) == asdict(record)


def test_data_is_named_without_secrets(tmp_path: Path) -> None:
    source = "https://me:word@host/x.csv?sig=abc"
    record = training_record(arguments(tmp_path), data=source, held_out_data=source, argv=["train.py"])
    assert record.data == record.held_out_data == "https://***@host/x.csv?sig=***"


def test_modules_are_named_once(tmp_path: Path) -> None:
    from peft import LoraConfig

    modules = [f"model.layers.{layer}.{name}" for layer in range(3) for name in ("mlp.up", "attn.out.0", "q_proj")]
    lora = LoraConfig(r=4, target_modules=modules, task_type="CAUSAL_LM")
    options = training_record(arguments(tmp_path), adapter=lora, argv=["train.py"]).hyperparameters
    assert options["target_modules"] == ["out.0", "q_proj", "up"]


def test_record_of_an_adapter(tmp_path: Path) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["v_proj", "q_proj"], task_type="CAUSAL_LM")
    options = training_record(arguments(tmp_path), adapter=lora, argv=["train.py"]).hyperparameters
    assert options["r"] == 4 and options["target_modules"] == ["q_proj", "v_proj"]
