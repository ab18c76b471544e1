"""Whether the vLLM that is installed can be used: its version, since inner parts of it are used, and the plugin."""

import os
from importlib.metadata import entry_points

TESTED = ">=0.32,<0.33"
_PLUGIN = "genarm"


def check_version() -> None:
    """Refuse a version of vLLM that nobody has tested this with.

    Raises:
        ImportError: as said.
    """
    from packaging.specifiers import SpecifierSet
    from vllm import __version__

    if not SpecifierSet(TESTED).contains(__version__, prereleases=True):
        raise ImportError(
            f"genarm_hf serves guided models with vllm{TESTED}, and {__version__} is installed. It depends on inner "
            f'parts of vLLM, which move from version to version: pip install "vllm{TESTED}".'
        )


def check_frontend() -> None:
    """Refuse a server that would not ask the plugin about requests.

    Raises:
        ValueError: requests would reach the engine unchecked.
    """
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0") != "0":
        raise ValueError("VLLM_USE_RUST_FRONTEND takes requests past the checks of plugins: unset it.")


def check_plugin() -> None:
    """Refuse to start where vLLM would not find the plugin, or would not ask it about requests.

    Raises:
        ImportError: it would call the architecture unknown.
        ValueError: as [`check_frontend`].
    """
    check_frontend()
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and _PLUGIN not in allowed.split(","):
        raise ImportError(f"VLLM_PLUGINS={allowed!r} leaves the plugin out: add {_PLUGIN!r}, or unset the variable.")
    if _PLUGIN not in {entry.name for entry in entry_points(group="vllm.general_plugins")}:
        raise ImportError("vLLM finds the plugin where genarm-hf is installed: pip install 'genarm-hf[vllm]'.")
