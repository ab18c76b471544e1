"""The rules of the house, read from the source: who imports whom, and when; how long a function may be."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "genarm_hf"
ROOT = Path(__file__).parents[1] / PACKAGE
LONGEST_BODY = 50

# A module imports from its own layer or from those above it in this list.
LAYERS = (
    ("files", "post_import"),
    ("configuration_genarm",),
    ("guidance",),
    ("vocabulary",),
    ("adapters", "loading", "model_card", "modeling_genarm", "modeling_implicit", "saving", "scoring"),
    ("decoding",),
    ("training",),
    ("baselines",),
    ("evaluation",),
    ("playground",),
    ("integrations",),
    ("benchmarks",),
    ("reproduce",),
    ("app", "cli", "__main__"),
)
# They tie the layers together for whoever imports the package, so they may name all of them; nothing imports them.
WIRING = ("", "registration")
FORBIDDEN = {("training", "decoding")}
# modules that are commands of their own, `python -m`, and print what they find
SCRIPTS = {"benchmarks.serving", "playground.pretrain"}
# Loaded inside the function that needs them.
LATE = {
    "aiohttp",
    "datasets",
    "fastapi",
    "flask",
    "gradio",
    "httpx",
    "httpx2",
    "matplotlib",
    "moocore",
    "peft",
    "requests",
    "shtab",
    "starlette",
    "trl",
    "uvicorn",
}


@dataclass(frozen=True)
class Import:
    """One imported module, as `genarm_hf.x` or by its own name."""

    target: str
    line: int
    late: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING`


@dataclass(frozen=True)
class Source:
    """A parsed module of the package."""

    name: str  # `decoding.generation`; the package itself is ""
    path: Path
    tree: ast.Module

    @property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, self, late=False, typing=False))

    @property
    def own(self) -> list[tuple[str, Import]]:
        """Imports from within the package, as names like `self.name`."""
        found = [item for item in self.imports if item.target.split(".")[0] == PACKAGE]
        return [(item.target.removeprefix(PACKAGE).removeprefix("."), item) for item in found]


@cache
def sources() -> dict[str, Source]:
    """Every module of the package, by name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Source(name, path, ast.parse(path.read_text(encoding="utf-8")))
    return found


def _imports(node: ast.AST, source: Source, late: bool, typing: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, late, typing) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (Import(target, node.lineno, late, typing) for target in _targets(node, source))
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from _imports(child, source, late, True)
        for child in node.orelse:
            yield from _imports(child, source, late, typing)
    else:
        inside = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, source, inside, typing)


def _targets(node: ast.ImportFrom, source: Source) -> set[str]:
    """`from . import x` names the module x where there is one, else the package it is taken from."""
    if not node.level:
        return {node.module or ""}
    package = [PACKAGE, *source.name.split(".")] if source.name else [PACKAGE]
    if source.path.name != "__init__.py":
        package = package[:-1]
    base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
    names = {f"{base}.{alias.name}" for alias in node.names}
    return {name if name.removeprefix(f"{PACKAGE}.") in _module_names() else base for name in names}


@cache
def _module_names() -> frozenset[str]:
    relative = (path.relative_to(ROOT).with_suffix("").parts for path in ROOT.rglob("*.py"))
    return frozenset(".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in relative)


def _layer(name: str) -> int:
    top = name.split(".")[0]
    return next((rank for rank, members in enumerate(LAYERS) if top in members), len(LAYERS))


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_every_module_belongs_to_a_layer() -> None:
    known = {member for members in LAYERS for member in members} | set(WIRING)
    unknown = {name for name in sources() if name.split(".")[0] not in known}
    assert not unknown, f"add them to LAYERS and to the documentation of the architecture: {sorted(unknown)}"


def test_imports_point_upward() -> None:
    wrong = [
        f"{source.path.name}:{item.line} ({name}) imports {target}"
        for name, source in sources().items()
        if name not in WIRING
        for target, item in source.own
        if target and (target in WIRING or _layer(target) > _layer(name))
    ]
    assert not wrong, "\n".join(wrong)


def test_forbidden_pairs() -> None:
    wrong = [
        f"{source.path.name}:{item.line} ({name}) imports {target}"
        for name, source in sources().items()
        for target, item in source.own
        if (name.split(".")[0], target.split(".")[0]) in FORBIDDEN
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    """Of imports that run when a module is loaded; the package itself, which everything is in, does not count."""
    edges = {
        name: {target for target, item in source.own if target and not item.late and not item.typing}
        for name, source in sources().items()
        if name
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "import cycle: " + " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for target in sorted(edges.get(name, ())):
            visit(target, (*path, name))
        done.add(name)

    for name in edges:
        visit(name, ())


def test_heavy_packages_are_loaded_late() -> None:
    wrong = [
        f"{source.path.name}:{item.line} imports {item.target} at module level"
        for source in sources().values()
        for item in source.imports
        if not item.late and not item.typing and item.target.split(".")[0] in LATE
    ]
    assert not wrong, "\n".join(wrong)


def test_the_mathematics_needs_torch_alone() -> None:
    allowed = {"guidance": {"torch"}, "vocabulary": {"torch", "transformers"}}
    for name, packages in allowed.items():
        found = {item.target.split(".")[0] for item in sources()[name].imports if not item.late and not item.typing}
        assert found - set(sys.stdlib_module_names) <= packages, name
    # for its logger only
    vocabulary = {item.target for item in sources()["vocabulary"].imports if not item.late and not item.typing}
    assert {target for target in vocabulary if target.startswith("transformers")} <= {"transformers.utils"}


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(source.path.relative_to(ROOT)) for source in sources().values() if not ast.get_docstring(source.tree)]
    assert not silent


def test_functions_are_short() -> None:
    long = [
        f"{source.path.name}:{function.lineno} {function.name} has {_body_lines(function)} lines"
        for source in sources().values()
        for function in _functions(source.tree)
        if _body_lines(function) > LONGEST_BODY
    ]
    assert not long, "\n".join(long)


def test_nothing_runs_code_from_a_file() -> None:
    """No pickle, no `torch.load`, and never `trust_remote_code=True` on our own account."""
    wrong = []
    for source in sources().values():
        wrong += [
            f"{source.path.name}:{i.line} {i.target}" for i in source.imports if i.target.split(".")[0] == "pickle"
        ]
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            trusts = [k for k in node.keywords if k.arg == "trust_remote_code" and ast.unparse(k.value) == "True"]
            if trusts or ast.unparse(node.func) == "torch.load":
                wrong.append(f"{source.path.name}:{node.lineno} {ast.unparse(node.func)}")
    assert not wrong, "\n".join(wrong)


def _calls(source: Source) -> Iterator[tuple[str, int]]:
    """Every call as it is written, `logger.warning`, with its line."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def test_what_is_said_goes_through_the_logger_of_transformers() -> None:
    """Whoever sets `transformers.logging` or TRANSFORMERS_VERBOSITY sets ours too; only commands print."""
    wrong = []
    for name, source in sources().items():
        wrong += [f"{source.path.name}:{i.line} imports {i.target}" for i in source.imports if i.target == "logging"]
        forbidden = {"warnings.warn", "logging.getLogger"} | (
            set() if name.split(".")[0] == "cli" or name in SCRIPTS else {"print"}
        )
        wrong += [f"{source.path.name}:{line} calls {call}" for call, line in _calls(source) if call in forbidden]
    assert not wrong, "\n".join(wrong)


def test_what_runs_in_every_call_warns_once() -> None:
    wrong = [
        f"{source.path.name}:{line} calls {call}: say `logger.warning_once`"
        for name, source in sources().items()
        for call, line in _calls(source)
        if name.split(".")[0] in ("decoding", "guidance", "scoring") and call == "logger.warning"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rules_catch_what_they_should() -> None:
    code = (
        "def f():\n    import peft\nif TYPE_CHECKING:\n    import datasets\n"
        "import matplotlib.pyplot\nfrom ..decoding import generation\nfrom . import losses\n"
    )
    found = {
        i.target: (i.late, i.typing) for i in Source("training.x", ROOT / "training" / "x.py", ast.parse(code)).imports
    }
    assert found["peft"] == (True, False) and found["datasets"] == (False, True)
    assert found["matplotlib.pyplot"] == found["genarm_hf.decoding.generation"] == (False, False)
    assert any(target.startswith("genarm_hf.training") for target in found)
