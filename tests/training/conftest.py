"""Fixtures of the training tests."""

from typing import Any

import pytest

from .toys import word_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return word_tokenizer()
