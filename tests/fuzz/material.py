"""Good and broken things that a user may name: models, reward models, adapters, compositions, data, configurations."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from genarm_hf import AutoregressiveRewardModel

from ..cli.conftest import build_tokenizer
from ..conftest import tiny
from ..reward_models import lora

PAIRS = [{"prompt": f"w{i} w4", "chosen": "w7 w8 w9", "rejected": "w9 w20"} for i in range(3, 13)]
# what a field of a json file may be instead of what it should be
WRONG_VALUES = (None, True, -1, 0, 1, 3, 1e30, float("nan"), "", "x", "llama", [], [1], {}, {"a": 1})


def build(folder: Path) -> None:
    """Lay everything out in a folder, good things under plain names and broken ones under `bad-`."""
    folder.mkdir(exist_ok=True)
    _models(folder)
    _files(folder)
    for name, (source, damage) in DAMAGES.items():
        shutil.copytree(folder / source, folder / f"bad-{name}")
        damage(folder / f"bad-{name}")
    (folder / "empty-folder").mkdir()


def _models(folder: Path) -> None:
    tokenizer = build_tokenizer()
    tiny("llama").save_pretrained(folder / "base")
    tiny("gpt2", n_positions=8).save_pretrained(folder / "short")
    tiny("t5").save_pretrained(folder / "t5")
    tiny("llama", vocab_size=400).save_pretrained(folder / "wide")
    for name in ("base", "short", "t5"):
        tokenizer.save_pretrained(folder / name)
    arm = AutoregressiveRewardModel.from_backbone(tiny("gpt2", seed=1), beta=0.05, alpha=0.25, objective="helpful")
    arm.save_pretrained(folder / "arm", tokenizer=tokenizer)
    base = tiny("llama")
    base.config._name_or_path = str(folder / "base")
    AutoregressiveRewardModel.from_backbone(lora(base), objective="brief").save_pretrained(folder / "lora")


def _files(folder: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in PAIRS)
    texts = {
        "pairs.jsonl": lines,
        "pairs.csv": "prompt,chosen,rejected\n" + "".join(",".join(row.values()) + "\n" for row in PAIRS),
        "one.jsonl": lines.splitlines()[0],
        "torn.jsonl": lines[:-9],
        "other.jsonl": '{"a": 1}\n{"b": [2]}\n',
        "numbers.jsonl": '{"prompt": 1, "chosen": 2, "rejected": null}\n',
        "list.json": "[1, 2]",
        "nothing.jsonl": "",
        "data.parquet": "not parquet",
        "pairs.jsonl.gz": "not gzip",
        "good.yaml": "beta: 0.1\nmax_pairs: 4\n",
        "broken.yaml": "a: [1\n  b",
        "list.yaml": "- 1\n- 2\n",
        "unknown.yaml": "no_such_option: 1\n",
        "wrong.yaml": "beta: [1, 2]\nlora_r: {a: 1}\n",
        "prompts.txt": "w5 w6\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.jsonl").write_bytes('{"prompt": "é", "chosen": "é", "rejected": "a"}'.encode("latin-1"))
    (folder / "latin.yaml").write_bytes("beta: é".encode("latin-1"))
    with gzip.open(folder / "torn.jsonl.gz", "wb") as file:
        file.write(lines.encode())
    packed = (folder / "torn.jsonl.gz").read_bytes()
    (folder / "torn.jsonl.gz").write_bytes(packed[: len(packed) // 2])


def _write(name: str, content: bytes | str) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def _cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _folder(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def set_field(name: str, key: str, value: Any) -> Callable[[Path], None]:
    """Put a value into a json file, under a key or a path of keys with dots."""

    def damage(folder: Path) -> None:
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
        inner = fields
        *outer, last = key.split(".")
        for part in outer:
            inner = inner[part]
        inner[last] = value
        (folder / name).write_text(json.dumps(fields), encoding="utf-8")

    return damage


def _nan_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    nan = {key: torch.full_like(tensor, float("nan")) for key, tensor in weights.items()}
    save_file(nan, folder / "model.safetensors", metadata={"format": "pt"})


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _itself(folder: Path) -> None:
    set_field("adapter_config.json", "base_model_name_or_path", str(folder))(folder)


def fields_of(folder: Path) -> list[tuple[str, str]]:
    """Every field of every json file in a folder, as the file's name and the path of its key."""
    found = []
    for path in sorted(folder.glob("*.json")):
        fields = json.loads(path.read_text(encoding="utf-8"))
        found += [(path.name, key) for key in _keys(fields, "") if not key.startswith("model.vocab.")]
    return found


def _keys(fields: Any, prefix: str) -> Iterator[str]:
    for key, value in fields.items() if isinstance(fields, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "base-json": ("base", _write("config.json", "{")),
    "base-list": ("base", _write("config.json", "[]")),
    "base-null": ("base", _write("config.json", "null")),
    "base-empty": ("base", _write("config.json", "")),
    "base-bytes": ("base", _write("config.json", b"\xff\xfe\x00")),
    "base-no-config": ("base", _remove("config.json")),
    "base-config-folder": ("base", _folder("config.json")),
    "base-unknown-type": ("base", set_field("config.json", "model_type", "no-such-model")),
    "base-no-heads": ("base", set_field("config.json", "num_attention_heads", 0)),
    "base-other-size": ("base", set_field("config.json", "hidden_size", 64)),
    "base-text-size": ("base", set_field("config.json", "hidden_size", "wide")),
    "base-cut": ("base", _cut("model.safetensors")),
    "base-no-bytes": ("base", _write("model.safetensors", b"")),
    "base-garbage": ("base", _write("model.safetensors", b"\x10" * 64)),
    "base-no-weights": ("base", _remove("model.safetensors")),
    "base-pickle": ("base", _pickle_only),
    "base-nan": ("base", _nan_weights),
    "base-no-tokenizer": ("base", _remove("tokenizer.json")),
    "base-tokenizer": ("base", _write("tokenizer.json", "{}")),
    "base-tokenizer-cut": ("base", _cut("tokenizer.json")),
    "base-tokenizer-config": ("base", _write("tokenizer_config.json", "[")),
    "base-generation": ("base", _write("generation_config.json", "{")),
    "base-generation-value": ("base", set_field("generation_config.json", "eos_token_id", "x")),
    "arm-json": ("arm", _write("config.json", "{")),
    "arm-cut": ("arm", _cut("model.safetensors")),
    "arm-no-text-config": ("arm", set_field("config.json", "text_config", None)),
    "arm-text-config": ("arm", set_field("config.json", "text_config", {"model_type": "no-such-model"})),
    "arm-text-list": ("arm", set_field("config.json", "text_config", [1])),
    "arm-beta": ("arm", set_field("config.json", "beta", "high")),
    "arm-alpha": ("arm", set_field("config.json", "alpha", [1])),
    "arm-template": ("arm", set_field("config.json", "prompt_template", "no field")),
    "arm-objective": ("arm", set_field("config.json", "objective", {"a": 1})),
    "arm-nan": ("arm", _nan_weights),
    "arm-no-weights": ("arm", _remove("model.safetensors")),
    "lora-json": ("lora", _write("adapter_config.json", "{")),
    "lora-list": ("lora", _write("adapter_config.json", "[]")),
    "lora-cut": ("lora", _cut("adapter_model.safetensors")),
    "lora-no-base": ("lora", set_field("adapter_config.json", "base_model_name_or_path", None)),
    "lora-other-base": ("lora", set_field("adapter_config.json", "base_model_name_or_path", "./gone")),
    "lora-number-base": ("lora", set_field("adapter_config.json", "base_model_name_or_path", 3)),
    "lora-itself": ("lora", _itself),
    "lora-type": ("lora", set_field("adapter_config.json", "peft_type", "NO_SUCH")),
    "lora-rank": ("lora", set_field("adapter_config.json", "r", 9)),
    "lora-rank-text": ("lora", set_field("adapter_config.json", "r", "x")),
    "lora-modules": ("lora", set_field("adapter_config.json", "target_modules", ["no_such_proj"])),
    "lora-prompt": ("lora", set_field("adapter_config.json", "peft_type", "PROMPT_TUNING")),
    "lora-no-weights": ("lora", _remove("adapter_model.safetensors")),
}
