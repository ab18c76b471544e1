"""The model card of a saved reward model: metadata the hub understands and a usage snippet that runs."""

import hashlib
import re
from pathlib import Path
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

CARD = "README.md"

_BODY = """
# {title}

An autoregressive reward model ([GenARM](https://arxiv.org/abs/2410.08193)): its next-token log-probabilities are
rewards{objective}. It guides a frozen base model of the same vocabulary at decoding time, without any training of that
model.

| | |
|---|---|
| objective | {objective_name} |
| beta (training) | {beta} |
| alpha (default at decoding) | {alpha} |
| weights | {weights} |
| prompt template | {template} |

## Use

```python
{imports}

tokenizer = AutoTokenizer.from_pretrained({base!r})
model = AutoModelForCausalLM.from_pretrained({base!r})
{load}

inputs = tokenizer("Hello", return_tensors="pt")
output = model.generate(**inputs, reward_models=[arm], alpha={alpha}, max_new_tokens=32)
print(tokenizer.decode(output[0]))
```
"""
_MARK = re.compile(r"\n<!-- genarm-hf wrote this card \(([0-9a-f]{16})\).*-->\n")
_MARK_TEXT = "\n<!-- genarm-hf wrote this card ({digest}) and writes it anew on every save, unless you edit it -->\n"


def write_model_card(config: Any, directory: Path, repo_id: str | None = None) -> None:
    """Write `README.md` into a saved reward model.

    A card that people wrote or edited keeps its text; only its metadata is brought up to date. A card that this
    function wrote and nobody touched is written anew.

    Args:
        config: the reward model's [`GenARMConfig`].
        directory: the saved repository.
        repo_id: name on the hub; the directory where it has none yet.
    """
    path = directory / CARD
    repo = repo_id or str(directory)
    previous = path.read_text(encoding="utf-8") if path.is_file() else None
    if previous is None or is_generated(previous):
        path.write_text(_generate(config, repo), encoding="utf-8")
    else:
        _update_metadata(path, previous, config)


def is_generated(text: str) -> bool:
    """Whether a card is one of ours that nobody has edited since."""
    found = _MARK.search(text)
    return found is not None and found[1] == _digest(_MARK.sub("", text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _generate(config: Any, repo: str) -> str:
    base = _base_name(config)
    text = f"---\n{_metadata(config, base).to_yaml()}\n---\n{_body(config, repo, base or repo)}"
    return text + _MARK_TEXT.format(digest=_digest(text))


def _update_metadata(path: Path, text: str, config: Any) -> None:
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(text)
    except Exception as error:  # people's own YAML: a save must not fail over it
        logger.warning(f"The metadata of {path} could not be read and stays as it is: {error}")
        return
    ours, theirs = _metadata(config, _base_name(config)).to_dict(), card.data.to_dict()
    ours["tags"] = list(dict.fromkeys([*_as_list(theirs.get("tags")), *ours["tags"]]))
    for key, value in ours.items():
        setattr(card.data, key, value)
    card.save(path)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _base_name(config: Any) -> str | None:
    adapter = config.adapter or {}
    return adapter.get("base_model_name_or_path") or getattr(config.text_config, "_name_or_path", None) or None


def _metadata(config: Any, base: str | None) -> Any:
    from huggingface_hub import ModelCardData

    tags = ["genarm", "reward-model", "test-time-alignment", "arxiv:2410.08193"]
    extra = {key: value for key in ("objective", "beta", "alpha") if (value := getattr(config, key)) is not None}
    # the hub's schema takes ids, not directories: a local path would make the card invalid there
    hub_base = base if base and not _is_path(base) else None
    relation = "adapter" if config.adapter else "finetune"
    return ModelCardData(
        base_model=hub_base,
        base_model_relation=relation if hub_base else None,
        library_name="genarm-hf",
        pipeline_tag="text-generation",
        tags=tags + ([config.objective] if config.objective else []),
        genarm=extra or None,
    )


def _is_path(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).exists() or name.count("/") > 1


def _body(config: Any, repo: str, base: str) -> str:
    adapter = config.adapter
    load = f"arm = AutoModel.from_pretrained({repo!r})"
    imports = "import genarm_hf  # pip install genarm-hf\n"
    imports += "from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer"
    if adapter:
        # its base is the model it guides here: held in memory once
        load = f"arm = AutoregressiveRewardModel.from_pretrained({repo!r}, base_model=model)"
        imports = "from genarm_hf import AutoregressiveRewardModel  # pip install genarm-hf\n"
        imports += "from transformers import AutoModelForCausalLM, AutoTokenizer"
    return _BODY.format(
        title=Path(repo).name,
        objective=f" for being **{config.objective}**" if config.objective else "",
        objective_name=config.objective or "not stated",
        beta="not stated" if config.beta is None else config.beta,
        alpha=1.0 if config.alpha is None else config.alpha,
        weights=f"{adapter['type']} adapter of {_code(adapter['base_model_name_or_path'])}" if adapter else "full",
        template=_code(repr(config.prompt_template)) if config.prompt_template else "none: prompts as they are",
        base=base,
        repo=repo,
        load=load,
        imports=imports,
    )


def _code(text: str | None) -> str:
    return "a model without a name" if text is None else "`" + text.replace("|", "\\|").replace("`", "'") + "`"
