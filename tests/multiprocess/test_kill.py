"""A run that is killed or told to stop goes on as if nothing had happened."""

import signal
import time

import pytest

from tests.multiprocess.children import finish, losses, start

RUN = {"runs": {"run": None}, "steps": 40, "save_every": 20, "muon": 0.01}


def when(there, child):
    """Wait until something is there."""
    until = time.monotonic() + 900
    while not there():
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Losses of 40 steps in one go, and a folder of compiled programs."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(RUN | {"folder": folder}, cache=folder / "cache"))
    reference = losses(folder, "run")
    assert len(reference) == len(set(reference)) == 40
    return reference, folder / "cache"


def test_killed_and_resumed_is_bit_identical(tmp_path, whole):
    reference, cache = whole
    child = start(RUN | {"folder": tmp_path, "slow_from": 23}, cache=cache)
    when((tmp_path / "run_checkpoints" / "20").exists, child)
    when(lambda: len(losses(tmp_path, "run")) >= 23, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = losses(tmp_path, "run")
    assert 23 <= len(done) < 40 and done == reference[: len(done)]
    finish(start(RUN | {"folder": tmp_path}, cache=cache))
    assert losses(tmp_path, "run")[len(done) :] == reference[20:], "20 losses, bit for bit"


def test_sigterm_saves_and_stops(tmp_path, whole):
    reference, cache = whole
    child = start(RUN | {"folder": tmp_path, "slow_from": 5}, cache=cache)
    when((tmp_path / "run.jsonl").exists, child)
    when(lambda: len(losses(tmp_path, "run")) >= 5, child)
    child.terminate()
    _, said = child.communicate(timeout=600)
    assert child.returncode == 143 and "Traceback" not in said
    done = losses(tmp_path, "run")
    (saved,) = (tmp_path / "run_checkpoints").iterdir()
    assert int(saved.name) == len(done) < 20
    finish(start(RUN | {"folder": tmp_path}, cache=cache))
    assert losses(tmp_path, "run") == reference
