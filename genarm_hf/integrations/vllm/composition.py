"""A composition: the directory that names a base, its reward models and their default alphas, for vLLM to serve.

It holds the base's configuration and tokenizer, and the *places* of all weights. Links to the base's weights would
let other programs load the directory as the base alone, unguided and without a word; without weights they fail.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from ...configuration_genarm import GenARMConfig
from ...guidance import as_alpha
from ...loading import Repository, load_config, unreadable
from ...vocabulary import check_vocabularies
from .adapters import MERGE, Adapter, read_adapter

ARCHITECTURE = "GenARMForCausalLM"
SHARED_ARCHITECTURE = "GenARMSharedForCausalLM"
"""Of reward models that are LoRA adapters of the base."""

SUPPORTED = (
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Architectures whose guided tokens `make test-vllm` compares with those of transformers."""

GENERATION = "generation_config.json"
_BASE, _ARMS = "genarm_base", "genarm_arms"
_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Part:
    """One model of a composition.

    Attributes:
        model: absolute path of its directory, or hub id.
        revision: commit on the hub; None for a directory.
        config: configuration of the causal LM.
        genarm: its configuration as a reward model; None for a base and for a plain causal LM.
        adapter: what it is beside the weights of its base, whose configuration it has; None for full weights.
    """

    model: str
    revision: str | None
    config: PreTrainedConfig
    genarm: GenARMConfig | None = None
    adapter: Adapter | None = None

    @property
    def place(self) -> dict[str, str | None]:
        """Where the weights are, as it is written down; of an adapter also where its base is."""
        place = {"model": self.model, "revision": self.revision}
        return place if self.adapter is None else place | {"base": self.adapter.base}


@dataclass(frozen=True)
class Composition:
    """A base, what guides it, and how strongly where a request does not say."""

    base: Part
    arms: tuple[Part, ...]
    alphas: tuple[float, ...]

    @property
    def architecture(self) -> str:
        """The name of the class that runs it in vLLM."""
        return ARCHITECTURE if self.arms[0].adapter is None else SHARED_ARCHITECTURE


def compose(base: Part, arms: Sequence[Part], alphas: Sequence[float] = ()) -> Composition:
    """Put models together that fit.

    Args:
        base: what shall be guided.
        arms: the reward models.
        alphas: default guidance strengths, one for all or one for each; empty: those of the reward models, else 1.

    Raises:
        ValueError: they cannot be served together; the message says why and what to do.
    """
    check_parts(base, arms)
    chosen = list(alphas) or [_own_alpha(part) for part in arms]
    if len(chosen) == 1:
        chosen *= len(arms)
    as_alpha(chosen, len(arms))  # checks them
    return Composition(base, tuple(arms), tuple(map(float, chosen)))


def _own_alpha(part: Part) -> float:
    alpha = part.genarm.alpha if part.genarm is not None else None
    return 1.0 if alpha is None else alpha


def open_part(name: str, revision: str | None = None, base: str | None = None) -> Part:
    """A model by its name: the configuration is read, the weights are not.

    Args:
        name: folder or hub name.
        revision: on the hub.
        base: of an adapter, the name of its base; None: the one it says itself.

    Raises:
        OSError: the repository cannot be read.
        TypeError: it is no causal LM.
        ValueError: it is a directory without safetensors, or an adapter that is more than low-rank terms.
    """
    repo = Repository.open(_absolute(name), {"revision": revision})
    if repo.is_local and not any(Path(repo.name).glob("*.safetensors")):
        raise unreadable(repo, FileNotFoundError("there is no safetensors file"))
    adapter = read_adapter(repo, base)
    config = load_config(repo, None, None if adapter is None else {}, False)
    genarm = config if isinstance(config, GenARMConfig) else None
    if adapter is not None:
        adapter = replace(adapter, base=_absolute(adapter.base))
        return Part(repo.name, repo.hub.get("revision"), _base_config(repo.name, adapter.base), genarm, adapter)
    inner: Any = config if genarm is None else genarm.text_config
    inner._name_or_path = repo.name  # where its tokenizer is
    return Part(repo.name, repo.hub.get("revision"), inner, genarm)


def _absolute(name: str) -> str:
    return os.path.abspath(name) if os.path.isdir(name) else name


def _base_config(name: str, base: str) -> PreTrainedConfig:
    try:
        return open_part(base).config
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is a LoRA adapter of {base!r}, which cannot be opened: {str(error).rstrip('.')}. Correct "
            "`base_model_name_or_path` in its adapter_config.json."
        ) from error


# ---------------------------------------------------------------------- what fits together


def check_parts(base: Part, arms: Sequence[Part]) -> None:
    """Refuse models that vLLM could not run together, or whose ids mean different tokens.

    Raises:
        ValueError: as said.
    """
    if base.genarm is not None:
        raise ValueError(f"The base {base.model!r} is a reward model. Name the model that shall be guided.")
    if base.adapter is not None:
        raise ValueError(f"The base {base.model!r} is a LoRA adapter. Merge it into its base, and name the result.")
    for part in (base, *arms):
        architecture(part)
    _check_adapters(base, [part for part in arms if part.adapter is not None], len(arms))
    for index, part in enumerate(arms):
        if getattr(part.config, "quantization_config", None):
            raise ValueError(f"The reward model {part.model!r} is quantised, which is not supported beside a base.")
        check_vocabularies(
            SimpleNamespace(config=base.config), SimpleNamespace(config=part.config), f"reward_models[{index}]"
        )


def _check_adapters(base: Part, adapters: Sequence[Part], arms: int) -> None:
    """Adapters are of the base itself, and among themselves."""
    merge = f"merge it into its base ({MERGE}) and name the result"
    for part in adapters:
        assert part.adapter is not None
        if not _same_place(part.adapter.base, base.model):
            raise ValueError(
                f"The reward model {part.model!r} is a LoRA adapter of {part.adapter.base!r}, not of the base "
                f"{base.model!r}: {merge}. If both are the same model, give it one name, on the command line and as "
                "`base_model_name_or_path` in adapter_config.json."
            )
        if len(adapters) != arms:
            raise ValueError(
                f"The reward model {part.model!r} is a LoRA adapter, which runs on the base's weights, and another "
                f"one has weights of its own; vLLM is given the one kind or the other: {merge}."
            )
    if adapters and getattr(base.config, "quantization_config", None):
        raise ValueError(
            f"The base {base.model!r} is quantised, and LoRA reward models on quantised weights are not supported."
        )


def _same_place(one: str, other: str) -> bool:
    return one == other or (os.path.isdir(one) and os.path.isdir(other) and os.path.samefile(one, other))


def architecture(part: Part) -> str:
    """The name of a model's class, for transformers and vLLM.

    Raises:
        ValueError: it is not among those that are tested.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # a configuration that was never saved with a model names none
    names = part.config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(part.config.model_type, "unknown")]
    if names[0] not in SUPPORTED:
        raise ValueError(
            f"{part.model!r} is a {names[0]}, which guided serving does not support. Supported are "
            f"{', '.join(SUPPORTED)}."
        )
    return names[0]


# ---------------------------------------------------------------------- on disk


def write(composition: Composition, directory: Path) -> None:
    """Write a composition into a directory that is not there yet.

    Raises:
        ValueError: the base has no tokenizer.
    """
    base = composition.base
    repo = Repository(base.model, {} if base.revision is None else {"revision": base.revision})
    fields = repo.json("config.json") or {}
    fields |= {
        "architectures": [composition.architecture],
        _BASE: base.place | {"architectures": [architecture(base)]},
        _ARMS: [
            part.place | {"alpha": alpha} for part, alpha in zip(composition.arms, composition.alphas, strict=True)
        ],
    }
    directory.mkdir(parents=True)
    for name, content in (("config.json", fields), (GENERATION, _generation_config(repo, composition))):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if not _copy_tokenizer(repo, directory):
        raise ValueError(f"The base {base.model!r} has no tokenizer, which a server needs. Save one beside it.")


def _generation_config(repo: Repository, composition: Composition) -> dict[str, Any]:
    """The base's, with guidance: `generate(generation_config=...)` of the base is then guided in transformers too."""
    own = repo.json(GENERATION) or GenerationConfig.from_model_config(composition.base.config).to_diff_dict()
    own.pop("_from_model_config", None)  # with it, transformers would not read fields that it does not know: unguided
    return own | {"reward_models": [part.model for part in composition.arms], "alpha": list(composition.alphas)}


def _copy_tokenizer(repo: Repository, directory: Path) -> bool:
    found = [path for name in _TOKENIZER_FILES if (path := repo.path(name)) is not None]
    for path in found:
        shutil.copyfile(path, directory / path.name)
    return bool(found)


def is_composition(directory: Path) -> bool:
    """Whether a directory was written by [`write`]."""
    return directory.is_dir() and _BASE in (Repository(str(directory)).json("config.json") or {})


def places(fields: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Base and reward models that a composition's `config.json` names; None where it is something else's.

    Args:
        fields: of the file.

    Raises:
        ValueError: somebody has edited it.
    """
    if _BASE not in fields:
        return None
    base, arms = fields[_BASE], fields.get(_ARMS)
    if not _is_place(base) or not isinstance(arms, list) or not all(map(_is_guide, arms)):
        raise ValueError(f"config.json of a composition must name a model as `{_BASE}`, and models as `{_ARMS}`.")
    return base, arms


def _is_place(place: Any) -> bool:
    """Whether this is what `Part.place` wrote."""
    return (
        isinstance(place, dict)
        and isinstance(place.get("model"), str)
        and all(isinstance(place.get(key), (str, type(None))) for key in ("revision", "base"))
    )


def _is_guide(place: Any) -> bool:
    """Whether this is a reward model's place, with its strength."""
    alpha = place.get("alpha") if isinstance(place, dict) else None
    return _is_place(place) and isinstance(alpha, (int, float)) and not isinstance(alpha, bool)


def read(config: Any) -> Composition:
    """The composition that a directory's `config.json` describes, with its models' configurations as they are now.

    Args:
        config: what transformers made of that file.

    Raises:
        OSError: a repository cannot be read.
        ValueError: the file does not describe a composition.
    """
    base, arms = getattr(config, _BASE, None), getattr(config, _ARMS, None)
    if not _is_place(base) or not isinstance(arms, list) or not arms or not all(map(_is_guide, arms)):
        raise ValueError(
            f"config.json names the architecture {config.architectures}, but not its models. Write the directory "
            "with `genarm-hf compose`."
        )
    parts = [open_part(place["model"], place.get("revision"), place.get("base")) for place in (base, *arms)]
    found = Composition(parts[0], tuple(parts[1:]), tuple(float(place["alpha"]) for place in arms))
    if [found.architecture] != list(config.architectures or []):
        raise ValueError(
            "Reward models with weights of their own have become LoRA adapters since `genarm-hf compose` "
            "wrote config.json, or the other way round. Write it again."
        )
    return found
