"""`transformers serve` with guidance, for machines without vLLM: the same request fields, one request at a time.

It has no hook for plugins. Two methods that its endpoints share are wrapped, in this process alone: what checks a
request, and what makes a generation config of it. From there on, guidance is that of `generate()`.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from .vllm.alphas import alpha_of, check_alpha
from .vllm.composition import Composition, Part

_FIELD = "vllm_xargs"


def check_installed() -> None:
    """Refuse to start without what the server needs.

    Raises:
        ImportError: as said.
    """
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        raise ImportError(
            "Nothing is installed that could serve: pip install 'genarm-hf[vllm]', or, for one request at a time, "
            "pip install 'transformers[serving]'."
        )


def serve(composition: Composition, options: Sequence[str]) -> None:
    """Run the server until it is stopped.

    Args:
        composition: what is served; requests may only name its base.
        options: of `transformers serve`.
    """
    from transformers.cli.serving import utils
    from transformers.cli.transformers import app

    from ..decoding.generation import install

    install()
    guide_requests(utils.BaseHandler, [_place(part) for part in composition.arms], composition.alphas)
    _refuse_decisions()
    app(["serve", _place(composition.base), *options])


def guide_requests(handler: Any, reward_models: list[str], alphas: tuple[float, ...]) -> None:
    """Make the requests of a server guided.

    Args:
        handler: transformers' `BaseHandler`, or a class like it. Two methods are replaced.
        reward_models: their folders.
        alphas: of requests that name none.
    """
    check, build = handler._validate_request, handler._build_generation_config

    def validate_request(self: Any, body: dict[str, Any]) -> None:
        from fastapi import HTTPException

        asked = body.get(_FIELD)
        try:
            if not isinstance(asked, dict | None):
                raise ValueError(f"`{_FIELD}` must be an object, such as {{'alpha': 0.5}}; got {asked!r}.")
            check_alpha(asked, len(reward_models))
        except ValueError as error:
            raise HTTPException(status_code=400, detail=str(error)) from error
        check(self, {key: value for key, value in body.items() if key != _FIELD})

    def build_generation_config(self: Any, body: dict[str, Any], *args: Any, use_cb: bool = False) -> Any:
        if use_cb:
            raise ValueError("Continuous batching of `transformers serve` has no guidance.")
        config = build(self, body, *args)
        config.reward_models, config.alpha = reward_models, list(alpha_of(body.get(_FIELD), alphas))
        return config

    handler._validate_request, handler._build_generation_config = validate_request, build_generation_config


def _refuse_decisions() -> None:
    """An endpoint of newer versions that asks the model itself, past `generate()`."""
    if find_spec("transformers.cli.serving.systemone") is None:
        return
    from transformers.cli.serving.systemone import SystemOneHandler

    def refuse(self: Any, body: dict[str, Any]) -> None:
        from fastapi import HTTPException

        raise HTTPException(status_code=400, detail="This endpoint would answer unguided.")

    SystemOneHandler._validate_request = refuse  # type: ignore[assignment,method-assign]


def _place(part: Part) -> str:
    """A folder with a model's files, of the commit that was composed."""
    from huggingface_hub import snapshot_download

    return part.model if part.revision is None else snapshot_download(part.model, revision=part.revision)
