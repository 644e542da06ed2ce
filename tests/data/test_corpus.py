"""The training corpus is the same however many cores draw it."""

import pytest

from knotjax.data import espeak
from knotjax.training import corpus


@pytest.mark.slow
@pytest.mark.skipif(not espeak.available(), reason="espeak-ng is not installed")
def test_workers_render_what_one_process_renders(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.os, "cpu_count", lambda: 3)
    seeds = 96  # enough for three workers
    many = corpus.render(tmp_path / "many", seeds, 0.16)
    monkeypatch.setattr(corpus.os, "cpu_count", lambda: 1)
    one = corpus.render(tmp_path / "one", 8, 0.16)
    assert len({path.read_bytes() for path in many}) == seeds
    assert [path.read_bytes() for path in many[:8]] == [path.read_bytes() for path in one]
    assert not list((tmp_path / "many").glob("*.part"))
