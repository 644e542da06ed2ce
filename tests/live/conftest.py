"""Engines of the tiny model, warmed up once."""

import pytest

from knotjax.live import Engine
from tests.live.runs import lively


@pytest.fixture(scope="package")
def single():
    """An engine of one stream."""
    with Engine(lively()) as engine:
        yield engine


@pytest.fixture(scope="package")
def triple():
    """An engine of three streams."""
    with Engine(lively(), slots=3) as engine:
        yield engine
