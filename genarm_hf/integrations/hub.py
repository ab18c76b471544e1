"""Reward models and compositions on the hub: what they say of themselves, lists of them, and uploading them whole.

An upload is one commit, which is there or is not. What could not be used from there is refused before anything is sent:
weights that are cut off, pickles, bases and reward models that are only a folder here.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..adapters import ADAPTER_CONFIG, saved_dtypes
from ..configuration_genarm import GenARMConfig
from ..loading import Repository, readable, unreadable
from ..model_card import CARD, RECORD, base_name, find_record, is_generated, is_path, marked, write_model_card
from ..saving import fetch_card
from .vllm.composition import GENERATION, places

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
TAG, COMPOSITION_TAG = "genarm", "genarm-composition"
# pickles, optimizer states and checkpoints in folders below stay at home
_UPLOADED = (".jinja", ".json", ".md", ".model", ".safetensors", ".txt")
_COLLECTION = re.compile(r"[\w.-]+/[\w-]+-[0-9a-f]{16,}")
_COMPOSITION_CARD = """---
{metadata}
---

# {title}

A base model and what guides it while it generates ([GenARM](https://arxiv.org/abs/2410.08193)). The weights are in
their own repositories; this one names them and how strongly each reward model guides.

| model | alpha |
|---|---|
{rows}

## Use

```python
import genarm_hf  # pip install genarm-hf
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained({base!r})
model = AutoModelForCausalLM.from_pretrained({base!r})
guided = GenerationConfig.from_pretrained({repo!r})
inputs = tokenizer("Hello", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, generation_config=guided, max_new_tokens=32)[0]))
```

Or serve it, each request with its own alpha if it likes: `genarm-hf serve {repo}` (`pip install 'genarm-hf[vllm]'`).
"""


# ---------------------------------------------------------------------- what repositories say


def describe(name: str, revision: str | None = None) -> dict[str, str]:
    """What a repository says of itself, by title; what it does not say is left out.

    Args:
        name: folder or hub name.
        revision: on the hub; None: main.

    Raises:
        OSError: it is not there, or is out of reach.
        ValueError: it is neither a reward model nor a composition, nor something that can be read as a reward model.
    """
    repo = Repository.open(name, {"revision": revision})
    fields, adapter = repo.json("config.json"), repo.json(ADAPTER_CONFIG)
    parts = None if fields is None else places(fields)
    if parts is not None:
        found = _describe_composition(*parts)
    elif fields is not None and fields.get("model_type") == GenARMConfig.model_type:
        with readable(f"config.json of {name!r}"):
            found = _describe_reward_model(GenARMConfig.from_dict(fields))
        found |= _describe_training(repo)
    elif adapter is not None:
        found = {
            "kind": "a plain adapter, read as a reward model as it is",
            "base": _said(adapter, "base_model_name_or_path"),
        }
    elif fields is not None and fields.get("architectures"):
        kinds = fields["architectures"]
        kind = kinds[0] if isinstance(kinds, list) else kinds
        found = {"kind": f"a plain {kind}; a causal LM is read as a reward model as it is"}
    else:
        raise OSError(
            f"{name!r} is no model repository, or the hub is out of reach and it is not in the cache. If it is "
            f"private, {LOG_IN}."
        )
    found["revision"] = repo.hub.get("revision") or ""
    return {title: text for title, text in found.items() if text}


def _describe_reward_model(config: GenARMConfig) -> dict[str, str]:
    adapter = config.adapter
    return {
        "kind": f"reward model, {adapter.get('type', '')} adapter" if adapter else "reward model, full weights",
        "objective": config.objective or "",
        "beta": "" if config.beta is None else f"{config.beta:g} (of the training loss)",
        "alpha": f"{1.0 if config.alpha is None else config.alpha:g} (where none is given)",
        "base" if adapter else "trained from": base_name(config) or "",
        "prompt template": repr(config.prompt_template) if config.prompt_template else "",
    }


def _describe_training(repo: Repository) -> dict[str, str]:
    """The training record beside the weights, as far as it can be read: people may have edited it."""
    try:
        record = repo.json(RECORD) or {}
        accuracy = ((record.get("held_out") or {}).get("accuracy") or {}).get("value")
    except (ValueError, AttributeError):
        return {}
    pairs = record.get("pairs")
    return {
        "trained on": ", ".join(filter(None, [_said(record, "data"), f"{pairs} pairs" if pairs else ""])),
        "held-out accuracy": f"{accuracy:.1%}" if isinstance(accuracy, float) else "",
        "trained by": _said(record, "command"),
    }


def _describe_composition(base: dict[str, Any], arms: list[dict[str, Any]]) -> dict[str, str]:
    named = {f"reward model {i}": f"{arm['model']} at alpha {arm['alpha']:g}" for i, arm in enumerate(arms, 1)}
    return {"kind": "composition, for `genarm-hf serve` or as a generation config", "base": base["model"]} | named


def is_collection(name: str) -> bool:
    """Whether a name is a collection's on the hub, `owner/title-0123456789abcdef`.

    Example:
        >>> is_collection("org/objectives-65f0c0ffee65f0c0ffee0001"), is_collection("org/arm-1b")
        (True, False)
    """
    return _COLLECTION.fullmatch(name) is not None


def listed(name: str) -> list[dict[str, str]]:
    """The reward models and compositions of a collection, or of a user or organisation.

    Args:
        name: of the collection or the owner.

    Returns:
        a row for each: `model`, `objective`, `beta`, `alpha`, `base`, as their cards say; empty where they do not.

    Raises:
        OSError: the hub does not know it, or is out of reach.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with plain_errors(f"{name!r} could not be listed"):
        if is_collection(name):
            items = api.get_collection(name).items
            models = [api.model_info(item.item_id) for item in items if item.item_type == "model"]
        else:
            models = list(api.list_models(author=name, filter=TAG, cardData=True))
    return [_row(model) for model in models if TAG in (model.tags or [])]


def _row(model: Any) -> dict[str, str]:
    card = model.card_data.to_dict() if model.card_data is not None else {}
    ours = card.get("genarm")
    ours = ours if isinstance(ours, dict) else {}  # people may have edited it
    said = {key: ours.get(key) for key in ("objective", "beta", "alpha")} | {"base": card.get("base_model")}
    texts = {key: "" if value is None else str(value) for key, value in said.items()}
    if COMPOSITION_TAG in (model.tags or []):
        texts["objective"] = "(composition)"
    return {"model": model.id} | texts


def _said(fields: dict[str, Any], key: str) -> str:
    return str(fields.get(key) or "")


# ---------------------------------------------------------------------- uploading


def push(
    folder: Path, repo_id: str, private: bool | None = None, revision: str | None = None, base_model: str | None = None
) -> str:
    """Upload a saved reward model, or a composition, in one commit.

    Args:
        folder: what `save_pretrained`, `genarm-hf train` or `genarm-hf compose` wrote.
        repo_id: `user/name`; created if missing. A card that people wrote, here or there, keeps its text.
        private: whether a new repository is private; None: what the owner's account says.
        revision: branch, created if missing; None: main.
        base_model: hub name of the base that an adapter was trained on, where it was a folder then.

    Returns:
        address of the commit.

    Raises:
        OSError: the hub refused, or the connection broke; nothing was committed then.
        ValueError: the folder is neither, is not whole, or could not be used from the hub.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    changed = _check_reward_model(folder, base_model) if _is_reward_model(folder) else _check_composition(folder)
    api = HfApi()
    with plain_errors(f"{str(folder)!r} could not be uploaded to {repo_id!r}"):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        changed[CARD] = _card(api, folder, repo_id, revision, changed)
        files = {path.name: path for path in folder.iterdir() if path.is_file() and path.suffix in _UPLOADED}
        content = {name: str(path) for name, path in files.items()} | changed
        operations = [CommitOperationAdd(name, content[name]) for name in sorted(content)]
        message = "Upload with genarm-hf"
        return str(api.create_commit(repo_id, operations, commit_message=message, revision=revision).commit_url)


def _is_reward_model(folder: Path) -> bool:
    fields = _read(folder, "config.json")
    if fields.get("model_type") != GenARMConfig.model_type and places(fields) is None:
        raise ValueError(
            f"{str(folder)!r} is neither a saved reward model nor what `genarm-hf compose` wrote. Other models have "
            "`model.push_to_hub`, and folders `hf upload`."
        )
    return places(fields) is None


def _read(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}.")
    return Repository(str(folder)).json(name) or {}


def _check_reward_model(folder: Path, base_model: str | None) -> dict[str, bytes]:
    """Files that have to be other ones on the hub, after a look at all of them.

    Raises:
        ValueError: weights are missing or cut off, or an adapter's base is a folder here.
    """
    repo = Repository(str(folder))
    try:
        if not saved_dtypes(sorted(folder.glob("*.safetensors"))):
            raise FileNotFoundError("there is no safetensors file")
    except Exception as error:
        raise unreadable(repo, error) from error
    adapter, config = _read(folder, ADAPTER_CONFIG), _read(folder, "config.json")
    with readable(f"config.json of {str(folder)!r}"):
        GenARMConfig.from_dict(config)
    if not adapter:
        if base_model is not None:
            raise ValueError(f"`base_model` is for adapters, and {str(folder)!r} has full weights. Leave it out.")
        return {}
    name = base_model or adapter.get("base_model_name_or_path") or ""
    if not name or not isinstance(name, str) or is_path(name):
        raise ValueError(
            f"{str(folder)!r} is an adapter of {name or 'a base it does not name'!r}, which nobody finds on the hub. "
            "Name the base's repository: `genarm-hf push ... --base-model org/name`."
        )
    if base_model is None:
        return {}
    adapter["base_model_name_or_path"] = name
    config["adapter"] = (config.get("adapter") or {}) | {"base_model_name_or_path": name}
    return {ADAPTER_CONFIG: _as_json(adapter), "config.json": _as_json(config)}


def _check_composition(folder: Path) -> dict[str, bytes]:
    """As [`_check_reward_model`]: its models have to be on the hub already.

    Raises:
        ValueError: some are folders here.
    """
    base, arms = places(_read(folder, "config.json")) or ({}, [])
    local = [part["model"] for part in (base, *arms) if is_path(part["model"])]
    if local:
        raise ValueError(
            f"The composition {str(folder)!r} names folders of this machine: {', '.join(local)}. Push these first, and "
            "compose again with their names on the hub."
        )
    generation = _read(folder, GENERATION) | {"reward_models": [arm["model"] for arm in arms]}
    return {GENERATION: _as_json(generation | {"alpha": [arm["alpha"] for arm in arms]})}


def _as_json(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


def _card(api: Any, folder: Path, repo_id: str, revision: str | None, changed: dict[str, bytes]) -> bytes:
    """The card to upload: text that people wrote here, else there, else one of ours."""
    own = folder / CARD
    with TemporaryDirectory() as scratch:
        draft = Path(scratch, CARD)
        fetch_card(api, repo_id, revision, Path(scratch))
        if own.is_file() and not is_generated(own.read_text(encoding="utf-8")):
            draft.write_bytes(own.read_bytes())
        fields = json.loads(changed.get("config.json") or (folder / "config.json").read_bytes())
        parts = places(fields)
        if parts is None:
            write_model_card(GenARMConfig.from_dict(fields), Path(scratch), repo_id, find_record(folder))
        elif not draft.is_file() or is_generated(draft.read_text(encoding="utf-8")):
            draft.write_text(marked(_composition_card(repo_id, *parts)), encoding="utf-8")
        return draft.read_bytes()


def _composition_card(repo_id: str, base: dict[str, Any], arms: list[dict[str, Any]]) -> str:
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        base_model=base["model"],
        library_name="genarm-hf",
        pipeline_tag="text-generation",
        tags=[TAG, COMPOSITION_TAG, "test-time-alignment", "arxiv:2410.08193"],
        genarm={"reward_models": [arm["model"] for arm in arms], "alpha": [arm["alpha"] for arm in arms]},
    )
    rows = [f"| {base['model']} | the base |", *(f"| {arm['model']} | {arm['alpha']:g} |" for arm in arms)]
    title = repo_id.split("/")[-1]
    return _COMPOSITION_CARD.format(
        metadata=metadata.to_yaml(), title=title, rows="\n".join(rows), base=base["model"], repo=repo_id
    )


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Errors of the hub's client, of its many kinds, as one sentence each.

    Args:
        what: what could not be done.

    Raises:
        OSError: in the place of theirs.
    """
    # HTTPError is that of whatever HTTP library the client is built on
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise OSError(f"{what}: there is no token on this machine; {LOG_IN}.") from error
    except OfflineModeIsEnabled as error:
        raise OSError(f"{what}: HF_HUB_OFFLINE is set, so the hub is not asked.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise OSError(f"{what}: the hub wants a token that is allowed to ({status}); {LOG_IN}.") from error
        raise OSError(f"{what}: {_reason(error)}") from error
    except (RuntimeError, HTTPError) as error:
        # of an upload, the client says which file it was, and chains what happened to it
        cause = f" ({_reason(error.__cause__)})" if error.__cause__ is not None else ""
        raise OSError(
            f"{what}: {_reason(error)}{cause}. Nothing was committed; the same command tries again."
        ) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
