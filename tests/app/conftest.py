"""Models that answer in milliseconds: tiny random ones, and the playground with hardly trained reward models."""

from pathlib import Path

import pytest

from genarm_hf.app.ensemble import Ensemble, load
from genarm_hf.app.playground import open_playground

from ..cli.conftest import arm_dir, base_dir, lora_dir  # noqa: F401 - fixtures

REQUEST = "w5 w6 w7"


@pytest.fixture(scope="session")
def tiny_ensemble(base_dir, arm_dir, lora_dir) -> Ensemble:  # noqa: F811
    """A reward model with weights of its own and one on the base's, two objectives."""
    return load(str(base_dir), [str(arm_dir), str(lora_dir)], "float32", "cpu")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, Ensemble, list[str]]:
    """The playground after its first start: where its reward models are, itself, and what was said meanwhile."""
    folder, said = tmp_path_factory.mktemp("app"), []
    return folder, open_playground(folder, pairs=2, say=said.append), said


@pytest.fixture
def playground_ensemble(trained) -> Ensemble:
    return trained[1]
