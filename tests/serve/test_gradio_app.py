import http.client
import json
import os
import types

import numpy as np
import pytest
import soundfile
from PIL import Image

from knotjax.media import read_video

pytestmark = pytest.mark.slow
gr = pytest.importorskip("gradio")


class Animator:
    """Shows the portrait, a second for every second of sound."""

    size = 64

    def __init__(self):
        self.words = []

    def stream(self, picture, sound, **words):
        self.words.append(words)
        for samples, rate in sound:
            count = round(25 * len(samples) / rate)
            yield types.SimpleNamespace(frames=np.stack([picture] * count), sound=np.zeros(640 * count, np.float32))


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (80, 80), (200, 60, 60)).save(tmp_path / "me.png")
    soundfile.write(tmp_path / "voice.wav", np.zeros(32_000, np.float32), 16_000)
    return str(tmp_path / "me.png"), str(tmp_path / "voice.wav")


def test_frames_come_while_the_video_is_made(files):
    from knotjax.serve.gradio_app import speak

    animator = Animator()
    making = speak(animator, *files, "happy", "")
    assert [next(making)[1] for _ in range(2)] == [None, None]
    output = next(making)[1]
    video, fps, _ = read_video(output)
    assert next(making, None) is None and not os.path.exists(output), "nothing of it stays"
    assert len(video) == 50 and fps == 25 and abs(video[10, 30, 30].astype(int) - [200, 60, 60]).max() < 12
    assert animator.words == [{"emotion": "happy", "action": None}]


def test_what_cannot_be_used_is_told_without_a_path(files, tmp_path):
    from knotjax.serve.gradio_app import speak

    (tmp_path / "bad.png").write_bytes(b"no picture")
    soundfile.write(tmp_path / "long.flac", np.zeros(8_000 * 61, np.float32), 8_000)
    for inputs in ((str(tmp_path / "bad.png"), files[1]), (files[0], str(tmp_path / "long.flac"))):
        with pytest.raises(gr.Error) as caught:
            list(speak(Animator(), *inputs, "", ""))
        assert str(tmp_path) not in str(caught.value) and ":" in str(caught.value)


def test_the_demo_is_served_with_its_limits(files):
    from gradio_client import Client, handle_file

    from knotjax.serve import gradio_app

    application, address, shared = gradio_app.launch(
        Animator(), prevent_thread_lock=True, quiet=True, share=False, server_name="127.0.0.1"
    )
    demo = application.get_blocks()
    try:
        assert shared is None and demo.max_file_size == 20 * 2**20 and not demo.show_error and not demo.allowed_paths
        assert demo.max_file_size and demo.delete_cache == (900, 900)
        client = Client(address, verbose=False)
        _, made = client.predict(handle_file(files[0]), handle_file(files[1]), "sad", "", api_name="/speak")
        made = made["video"] if isinstance(made, dict) else made
        assert len(read_video(made)[0]) == 50, "from upload to download"
        port = int(address.rstrip("/").rsplit(":", 1)[1])

        def get(target):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", target)
            answer = connection.getresponse()
            return answer.status, answer.read()

        status, body = get("/config")
        assert status == 200 and json.loads(body)["title"] == "knotjax"
        for path in ("/etc/passwd", "../../etc/passwd", files[0]):
            assert get(f"/gradio_api/file={path}")[0] in (403, 404)
    finally:
        demo.close()
