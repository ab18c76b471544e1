"""`genarm-hf info`: what a reward model or composition says of itself, or a list of somebody's."""

from dataclasses import dataclass, field
from pathlib import Path

from .loading import quiet
from .parsing import CommandParser, UsageError
from .text import paragraph, table


@dataclass
class InfoOptions:
    """What may be asked for."""

    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit on the hub (default: main)", "metavar": "R"}
    )
    repo: str = field(init=False)


def parser() -> CommandParser:
    """The command line of `genarm-hf info`."""
    return CommandParser(
        InfoOptions,
        "info",
        "Tell what a reward model or composition says of itself: objective, beta, alpha, base, training. Of a "
        "collection, or of a user or organisation, list the reward models.",
        positional=("repo", "a folder, a hub name, a collection's name, or a user or organisation"),
        usage="genarm-hf info REPO [--revision R]",
    )


def run(options: InfoOptions) -> None:
    """Print the description or the list."""
    from ..integrations.hub import describe, is_collection, listed

    name = options.repo
    if not name.strip():
        raise UsageError("the repository's name is empty.")
    single = Path(name).exists() or ("/" in name and not is_collection(name))
    if not single and options.revision is not None:
        raise UsageError(f"`--revision` is one repository's, and {name!r} is an owner or a collection.")
    with quiet():
        if single:
            found = describe(name, options.revision)
            lines = [paragraph(f"{title}: {text}", indent=2, hanging=2) for title, text in found.items()]
            print("\n".join([name, *lines]))
            return
        rows = listed(name)
    if not rows:
        print(f"{name} has no reward models on the hub (models tagged `genarm`).")
        return
    columns = list(rows[0])
    print(table(columns, [[row[column] for column in columns] for row in rows]))
