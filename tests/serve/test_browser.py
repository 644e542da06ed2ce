"""A real browser at the page; needs playwright and Chromium."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.serve.fake import Engine
from tests.serve.serving import serving, wait

pytest.importorskip("playwright")
from tests.serve import browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.access(browser.CHROMIUM, os.X_OK), reason="needs Chromium"),
]
LIVE = "document.getElementById('status').textContent === 'Live'"
MOUTH = (0.36, 0.6, 0.64, 0.84)


@pytest.fixture
def server():
    with serving(Engine(size=128)) as server:
        yield server


def test_a_person_at_the_page(server, tmp_path):
    Image.new("RGB", (300, 400), (40, 180, 220)).save(tmp_path / "me.png")
    tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000)
    (tmp_path / "voice.wav").write_bytes(browser.bursts(tone, 6.0))
    with browser.browsing(server.port) as page:
        page.start(str(tmp_path / "me.png"))
        session = server.engine.opened[-1]
        assert session._picture[64, 10].tolist() == [40, 180, 220], "the uploaded portrait"
        page.speak(str(tmp_path / "voice.wav"))
        times, patches, sums = page.watch(MOUTH, 9.0)
        assert len(set(np.round(sums))) > 20, "frames change"
        assert times[-1] - times[0] > 5.0, "and time goes on"
        darkness = 255 - patches.mean(1)
        share = (darkness > (darkness.min() + darkness.max()) / 2).mean()
        flips = np.abs(np.diff(darkness > (darkness.min() + darkness.max()) / 2)).sum()
        print(f"mouth open in {share:.2f} of the looks, {flips} times between open and shut")
        assert np.ptp(darkness) > 20 and 0.15 < share < 0.6 and 4 <= flips <= 8, "three bursts of sound"
        page.speak(str(tmp_path / "voice.wav"))
        wait(lambda: len(session._queue))
        page.click("interrupt")
        wait(lambda: ("interrupt",) in session.calls)
        page.evaluate("() => { document.getElementById('emotion').value = 'happy'; }")
        page.evaluate("() => document.getElementById('emotion').dispatchEvent(new Event('change'))")
        wait(lambda: ("switch", False, "happy", None, None, 0.5) in session.calls)
        page.until(LIVE)
        assert page.error == "" and page.faults == []
        page.click("leave")
        wait(lambda: not server.hub.busy, 5.0)
        page.until("document.getElementById('status').textContent === 'Not connected'")
        page.start()
        assert page.error == ""


def test_the_microphone(server):
    with browser.browsing(server.port) as page:
        page.start()
        page.click("microphone")
        session = server.engine.opened[-1]
        wait(lambda: session._samples._read > 16_000, 30.0)
        page.click("microphone")
        wait(lambda: ("end",) in session.calls)
        assert page.error == "" and page.faults == []


def test_a_page_tells_what_went_wrong(server):
    with browser.browsing(server.port) as page:
        page.start()
        page.evaluate("() => window.live.socket.send('{}')")
        page.until("!document.getElementById('error').hidden")
        assert "control message" in page.error
        server.engine.fault = server.engine.opened[-1]._made + 1
        page.until("document.getElementById('status').textContent === 'Disconnected'")
        assert "broke" in page.error


def test_a_page_catches_up_after_a_pause(server):
    with browser.browsing(server.port) as page:
        page.start()
        page.evaluate("() => document.getElementById('video').pause()")
        page.evaluate("() => { document.getElementById('video').play = async () => {}; }")
        page.until("window.live.hand > 1.4", 20.0)
        page.evaluate("() => { delete document.getElementById('video').play; }")
        page.until("window.live.jumps > 0 && window.live.hand < 3.0", 20.0)
        page.until(LIVE)


def test_webrtc(tmp_path):
    pytest.importorskip("aiortc", reason="extra 'webrtc'")
    tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000)
    (tmp_path / "voice.wav").write_bytes(browser.bursts(tone, 6.0))
    with serving(Engine(size=128)) as server, browser.browsing(server.port) as page:
        page.click("webrtc")
        page.start()
        page.until(LIVE)
        assert page.evaluate("() => Boolean(document.getElementById('video').srcObject)")
        page.speak(str(tmp_path / "voice.wav"))
        times, patches, sums = page.watch(MOUTH, 9.0)
        darkness = 255 - patches.mean(1)
        share = (darkness > (darkness.min() + darkness.max()) / 2).mean()
        flips = np.abs(np.diff(darkness > (darkness.min() + darkness.max()) / 2)).sum()
        print(f"mouth open in {share:.2f} of the looks, {flips} times between open and shut")
        assert len(set(np.round(sums))) > 20 and times[-1] - times[0] > 5.0
        assert np.ptp(darkness) > 20 and 0.15 < share < 0.6 and flips >= 4, "three bursts of sound"
        page.click("interrupt")
        session = server.engine.opened[-1]
        wait(lambda: ("interrupt",) in session.calls)
        assert page.error == "" and page.faults == []
        page.click("leave")
        wait(lambda: not server.hub.busy, 5.0)
        page.until("document.getElementById('status').textContent === 'Not connected'")
        page.click("webrtc")
        page.start()
        assert page.error == "" and page.evaluate("() => window.live.buffer !== null"), "fragments again"
