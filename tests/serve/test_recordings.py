import io
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import av
import pytest

from knotjax.errors import InputError
from knotjax.serve.recordings import check_folder
from tests.serve.serving import Client, serving, tone, wait

NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.mp4")


def frames(path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.fixture
def child(tmp_path):
    """A server in a process of its own, that records into `tmp_path`."""
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serve.child", str(tmp_path)], stdout=subprocess.PIPE, text=True, env=env, cwd=root
    )
    process.port = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def session(server, fragments=3):
    client = Client(types.SimpleNamespace(port=server.port)).begin()
    client.tell("sound", rate=16_000)
    client.send(tone(1.0))
    client.more(fragments)
    return client


def test_a_recording_is_what_the_client_was_sent(tmp_path):
    with serving(record=tmp_path) as server:
        with session(server) as client:
            assert client.told[-1]["recording"] == "on"
            (part,) = tmp_path.glob("*.mp4.part")
            assert frames(part) > 9, "it can be played while it grows"
            client.tell("bye")
            assert client.closed() == 1000
        wait(lambda: not server.hub.busy)
        (path,) = tmp_path.iterdir()
        assert NAME.fullmatch(path.name) and path.read_bytes() == client.head + b"".join(client.fragments)
        with av.open(io.BytesIO(path.read_bytes())) as container:
            assert "synthetic" in container.metadata["comment"]
        with Client(server) as other:
            other.until("ready")
        wait(lambda: not server.hub.busy)
        assert len(list(tmp_path.iterdir())) == 1, "a client that never starts leaves no file"


def test_a_full_disk_ends_the_recording_and_not_the_session(tmp_path, monkeypatch):
    from knotjax.serve import recordings

    monkeypatch.setattr(recordings.Recording, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with serving(record=tmp_path) as server, session(server) as client:
        assert client.told[-1]["recording"] == "No space left"
        client.more(2)


def test_sigterm_finishes_recordings_and_ends_soon(child, tmp_path):
    client = session(child)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert client.closed() == 1001
    assert child.wait(10) == 130
    took = time.monotonic() - began
    print(f"ended after {took:.2f} s")
    assert took < 5.0
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".mp4" and frames(path) == 9 + 12 * (len(client.fragments) - 1)


def test_sigkill_loses_no_finished_recording(child, tmp_path):
    client = session(child)
    client.tell("bye")
    assert client.closed() == 1000
    wait(lambda: len(list(tmp_path.glob("*.mp4"))) == 1)
    second = session(child)
    child.kill()
    child.wait()
    second.closed()
    (finished,), (growing,) = tmp_path.glob("*.mp4"), tmp_path.glob("*.part")
    assert finished.read_bytes() == client.head + b"".join(client.fragments)
    held = frames(growing)
    print(f"{held} frames of the unfinished one can be played, {len(second.fragments)} fragments were sent")
    assert held >= 9 + 12 * (len(second.fragments) - 2)


def test_where_recordings_cannot_be_kept(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        check_folder(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a folder"):
        check_folder(tmp_path / "file")
