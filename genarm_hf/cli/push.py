"""`genarm-hf push`: upload a reward model or a composition to the hub."""

from dataclasses import dataclass, field
from pathlib import Path

from .loading import quiet
from .parsing import CommandParser


@dataclass
class PushOptions:
    """What may be asked for."""

    private: bool = field(default=False, metadata={"help": "make the repository private, if it is made now"})
    revision: str | None = field(
        default=None, metadata={"help": "branch to commit to, made if missing (default: main)", "metavar": "BRANCH"}
    )
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "of an adapter that was trained on a folder: the base's name on the hub",
            "metavar": "BASE",
        },
    )
    folder: str = field(init=False)
    repo: str = field(init=False)


def parser() -> CommandParser:
    """The command line of `genarm-hf push`."""
    return CommandParser(
        PushOptions,
        "push",
        "Upload a saved reward model, or what `genarm-hf compose` wrote, in one commit, with a card that says what it "
        "is. Log in before: `hf auth login`.",
        positional=[("folder", "what to upload"), ("repo", "where to, such as you/your-arm; made if missing")],
        usage="genarm-hf push DIR REPO [--private] [--revision BRANCH] [--base-model BASE]",
    )


def run(options: PushOptions) -> None:
    """Upload, say where it is and how it is loaded."""
    from ..integrations.hub import push

    with quiet():
        address = push(
            Path(options.folder), options.repo, options.private or None, options.revision, options.base_model
        )
    print(f"{options.folder} is at {address}\nSee what it says of itself: genarm-hf info {options.repo}")
