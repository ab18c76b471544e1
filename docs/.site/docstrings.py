"""Docstrings as transformers writes them, read as the site's generator reads them."""

import re

from griffe import Docstring, Extension, Object

import genarm_hf

_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
_REFERENCE = re.compile(r"\[(`~?([\w.]+)`)\](?![\[(])")


class Docstrings(Extension):
    """A heading `Example:` means examples, and a name in brackets links to its own entry, where it has one."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Rewrites the docstring, if there is one, before it is parsed."""
        if obj.docstring is not None:
            self.rewrite(obj.docstring)

    def rewrite(self, docstring: Docstring) -> None:
        """In place: griffe parses it later."""
        docstring.value = _REFERENCE.sub(_link, _EXAMPLE.sub("Examples:", docstring.value))


def _link(match: re.Match[str]) -> str:
    name = match[2].removeprefix("genarm_hf.")
    return f"[`{name}`][genarm_hf.{name}]" if name in genarm_hf.__all__ else f"`{name}`"
