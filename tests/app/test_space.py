"""examples/space: ready to be pushed, and closed to other models."""

import re
import runpy
from pathlib import Path

import yaml

import genarm_hf.app

SPACE = Path(__file__).parents[2] / "examples" / "space"
ROOT = SPACE.parents[1]


def test_it_serves_the_playground_and_nothing_else(monkeypatch):
    served = []
    monkeypatch.setattr(genarm_hf.app, "open_playground", lambda: "the playground")
    monkeypatch.setattr(genarm_hf.app, "serve", lambda *given, **named: served.append((given, named)))
    runpy.run_path(str(SPACE / "app.py"))
    assert served == [(("the playground",), {})]


def test_the_card_says_what_the_hub_needs_and_what_was_tested():
    head = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (SPACE / head["app_file"]).is_file() and head["sdk"] == "gradio"
    constraints = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^gradio==(.*)$", constraints, re.MULTILINE)[1] == head["sdk_version"]
    assert len(head["short_description"]) <= 60
    assert (SPACE / "requirements.txt").read_text().startswith("genarm-hf[app]")
