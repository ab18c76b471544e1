"""The model card of a saved reward model: metadata the hub understands and a usage snippet that runs."""

from pathlib import Path
from typing import Any

_BODY = """
# {title}

An autoregressive reward model ([GenARM](https://arxiv.org/abs/2410.08193)): its next-token log-probabilities are rewards{objective}.
It guides a frozen base model of the same vocabulary at decoding time, without any training of that model.

| | |
|---|---|
| objective | {objective_name} |
| beta (training) | {beta} |
| alpha (default at decoding) | {alpha} |
| weights | {weights} |
| prompt template | {template} |

## Use

```python
import genarm_hf  # pip install genarm-hf
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base!r})
model = AutoModelForCausalLM.from_pretrained({base!r})
arm = AutoModel.from_pretrained({repo!r})

inputs = tokenizer("Hello", return_tensors="pt")
output = model.generate(**inputs, reward_models=[arm], alpha={alpha}, max_new_tokens=32)
print(tokenizer.decode(output[0]))
```
"""


def write_model_card(config: Any, directory: Path, repo_id: str | None = None) -> None:
    """Write `README.md` into a saved reward model, keeping the text of a card that people have edited.

    Args:
        config: the reward model's [`GenARMConfig`].
        directory: the saved repository.
        repo_id: name on the hub; the directory where it has none yet.
    """
    from huggingface_hub import ModelCard

    path = directory / "README.md"
    repo = repo_id or str(directory)
    adapter = config.adapter or {}
    base = adapter.get("base_model_name_or_path") or config.text_config._name_or_path or None
    card = ModelCard(f"---\n{_metadata(config, base).to_yaml()}\n---\n{_body(config, repo, base or repo)}")
    card.save(path)


def _metadata(config: Any, base: str | None) -> Any:
    from huggingface_hub import ModelCardData

    tags = ["genarm", "reward-model", "test-time-alignment", "arxiv:2410.08193"]
    extra = {key: value for key in ("objective", "beta", "alpha") if (value := getattr(config, key)) is not None}
    # the hub's schema takes ids, not directories: a local path would make the card invalid there
    hub_base = base if base and not Path(base).is_absolute() and not base.startswith(".") else None
    relation = "adapter" if config.adapter else "finetune"
    return ModelCardData(
        base_model=hub_base,
        base_model_relation=relation if hub_base else None,
        library_name="genarm-hf",
        pipeline_tag="text-generation",
        tags=tags + ([config.objective] if config.objective else []),
        genarm=extra,
    )


def _body(config: Any, repo: str, base: str) -> str:
    adapter = config.adapter
    return _BODY.format(
        title=Path(repo).name,
        objective=f" for being **{config.objective}**" if config.objective else "",
        objective_name=config.objective or "not stated",
        beta="not stated" if config.beta is None else config.beta,
        alpha=1.0 if config.alpha is None else config.alpha,
        weights=f"{adapter['type']} adapter of `{adapter['base_model_name_or_path']}`" if adapter else "full",
        template=f"`{config.prompt_template!r}`" if config.prompt_template else "none: prompts as they are",
        base=base,
        repo=repo,
    )
