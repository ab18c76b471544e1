"""`genarm-hf reproduce`: the paper's claims, measured here: every sample, a table and a figure each, and one page."""

import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from .loading import quiet
from .parsing import CommandParser, UsageError
from .text import paragraph, table

if TYPE_CHECKING:
    from ..reproduce.lab import Lab

_ALL, _LAB, _REPORT = "all", "lab", "report"


@dataclass
class ReproduceOptions:
    """What may be varied."""

    fast: bool = field(
        default=False, metadata={"help": "a smaller lab and fewer seeds: minutes, to see that everything works"}
    )
    output: str = field(
        default="",
        metadata={"help": "folder of results; default: reproduce-output, or reproduce-fast", "metavar": "DIR"},
    )
    lab: str = field(
        default="",
        metadata={
            "help": "folder of trained models and drawn pairs; default: $GENARM_HF_LAB, or genarm_hf/lab in the cache",
            "metavar": "DIR",
        },
    )
    data: str = field(
        default="",
        metadata={"help": "folder of real preference pairs, files *.jsonl.gz (claim real_text)", "metavar": "DIR"},
    )
    page: str = field(
        default="", metadata={"help": "the page that report writes; default: results.md in DIR", "metavar": "FILE"}
    )
    jobs: int = field(default=2, metadata={"help": "claims that are measured side by side", "metavar": "N"})
    threads: int = field(default=1, metadata={"help": "CPU threads of each", "metavar": "N"})
    claim: str = field(init=False, default=_ALL)


def parser() -> CommandParser:
    """The command line of `genarm-hf reproduce`."""
    from ..reproduce.claims import CLAIMS

    return CommandParser(
        ReproduceOptions,
        "reproduce",
        "Measure the paper's claims in a world with exact rewards. What was interrupted goes on where it stopped.",
        positional=(
            "claim",
            f"one of {', '.join(CLAIMS)}; {_ALL}: every claim and the page; {_LAB}: pretrain the base models only; "
            f"{_REPORT}: write the page from what is on disk",
        ),
    )


def run(options: ReproduceOptions) -> None:
    """Run one claim or all, and print what was found."""
    from ..reproduce.claims import CLAIMS

    claims = list(CLAIMS) if options.claim == _ALL else [options.claim] if options.claim in CLAIMS else []
    _check(options, claims)
    output = Path(options.output or ("reproduce-fast" if options.fast else "reproduce-output"))
    if options.claim == _LAB:
        _pretrain(options)
    _reproduce_all(claims, options, output)
    if options.claim in (_ALL, _REPORT):
        _report(options, output)


def _check(options: ReproduceOptions, claims: list[str]) -> None:
    if not claims and options.claim not in (_LAB, _REPORT):
        from ..reproduce.claims import CLAIMS

        names = ", ".join([*CLAIMS, _ALL, _LAB, _REPORT])
        raise UsageError(f"reproduce: {options.claim!r} is no claim; there are {names}.")
    for name in ("jobs", "threads"):
        if getattr(options, name) < 1:
            raise UsageError(f"reproduce: `--{name}` must be at least 1, got {getattr(options, name)}.")
    if options.page and options.claim not in (_ALL, _REPORT):
        raise UsageError(f"reproduce: `--page` is for {_ALL} and {_REPORT}, not for {options.claim}.")
    if options.data and not Path(options.data).is_dir():
        raise UsageError(f"reproduce: `--data` must be a folder of preference pairs, got {options.data!r}.")
    for name in ("output", "lab"):
        if getattr(options, name) and Path(getattr(options, name)).is_file():
            raise UsageError(f"reproduce: `--{name}` must be a folder, and {getattr(options, name)!r} is a file.")


def _open_lab(options: ReproduceOptions) -> "Lab":
    import torch

    from ..reproduce.lab import Lab, default_folder

    torch.set_num_threads(options.threads)
    folder = Path(options.lab) if options.lab else default_folder()
    return Lab(folder, options.fast, Path(options.data) if options.data else None)


def _pretrain(options: ReproduceOptions) -> None:
    lab = _open_lab(options)
    with quiet():
        models = {"strong": lab.strong, "weak": lab.weak}
    for name, model in models.items():
        print(f"{name}: {model.num_parameters():,} parameters, {model.config.name_or_path}")


def _reproduce_all(claims: list[str], options: ReproduceOptions, output: Path) -> None:
    if min(options.jobs, len(claims)) < 2:
        for claim in claims:
            _reproduce(claim, options, output)
        return
    # glibc returns memory to the system after every step of decoding and asks for it again, a third of the time; read
    # when a process starts, so it is for the claims' own
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
    # started anew, since torch's threads do not survive a fork; what two claims need is trained by one (`Lab.trained`)
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), _end_with_parent) as pool:
        # real text shares nothing with the other claims: the last, it would keep one process busy and no other
        ordered = sorted(claims, key=lambda claim: claim != "real_text")
        tasks = [pool.submit(_reproduce, claim, options, output) for claim in ordered]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:  # Ctrl-C reaches the claims under way as well; the others must not begin then
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this worker when its run is killed: it would go on, and write into the files of the next run."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=[parent.sentinel], daemon=True).start()


def _end_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _reproduce(claim: str, options: ReproduceOptions, output: Path) -> None:
    from ..reproduce.claims import reproduce, skipped
    from ..reproduce.page import tables

    lab = _open_lab(options)
    reason = skipped(claim, lab)
    if reason:
        print(paragraph(f"{claim}. {reason}") + "\n")
        return
    described = ", ".join(f"{key}: {value}" for key, value in lab.describe().items())
    print(paragraph(f"{claim}. {described}."))
    with quiet():
        found = reproduce(claim, lab, output, progress=lambda message: print(f"  {message}", flush=True))
    parts = [f"{title}\n{table(header, cells)}" for title, header, cells in tables(found["rows"])]
    parts += [paragraph(finding) for finding in found["findings"]]
    print("\n" + "\n\n".join([*parts, f"Samples, table and figure: {output / claim}"]) + "\n", flush=True)


def _report(options: ReproduceOptions, output: Path) -> None:
    from ..reproduce.page import write_page

    page = Path(options.page) if options.page else output / "results.md"
    names = write_page(output, page)
    print(f"{page}: {', '.join(names)}")
