"""A browser at the page of `knotjax serve`, with the shipped model on this machine:

    python -m experiments.serve.page

Needs Chromium and playwright. Uploads a portrait and speech in bursts of a second, watches the mouth, interrupts,
leaves; prints what it saw and writes `page.png`.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from knotjax.bundle import SHIPPED
from knotjax.media import read_sound
from tests.serve import browser

MOUTH = (0.34, 0.56, 0.66, 0.82)
SECONDS = 16.0


def served() -> tuple[subprocess.Popen, int]:
    """The command as a process, once it is ready; its port."""
    import http.client

    command = [sys.executable, "-m", "knotjax", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    port = int(re.search(r":(\d+)/", process.stderr.readline())[1])
    began = time.monotonic()
    while time.monotonic() - began < 600:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/readyz")
        if connection.getresponse().status == 200:
            print(f"ready {time.monotonic() - began:.1f} s after it listened")
            return process, port
        time.sleep(0.5)
    raise SystemExit("the server does not become ready")


def contrast(times: np.ndarray, moving: np.ndarray) -> tuple[float, float]:
    """Mean movement of the mouth in the second of every two in which it moves more, and in the other one.

    The speech comes in every other second; where in the video it begins is found by trying.
    """
    middles = (times[1:] + times[:-1]) / 2
    halves = [(middles - start) % 2.0 < 1.0 for start in np.arange(0.0, 2.0, 0.1)]
    return max(((moving[half].mean(), moving[~half].mean()) for half in halves), key=lambda pair: pair[0] / pair[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="A browser at the page.")
    parser.add_argument("--portrait", default=SHIPPED.parent / "portrait.png", help="picture to upload")
    options = parser.parse_args()
    process, port = served()
    try:
        with tempfile.TemporaryDirectory() as folder, browser.browsing(port) as page:
            voice = Path(folder) / "voice.wav"
            voice.write_bytes(browser.bursts(read_sound(SHIPPED.parent / "hello.wav"), SECONDS))
            page.start(str(options.portrait), 120.0)
            page.speak(str(voice))
            page.evaluate("() => { window.began = performance.now(); }")
            times, patches, sums = page.watch(MOUTH, SECONDS - 1.0)
            page.shoot(Path(__file__).with_name("page.png"))
            moving = np.abs(np.diff(patches, axis=0)).mean(1)
            report = page.evaluate("() => window.live.report")
            print(f"{len(sums)} looks, {len(set(np.round(sums)))} different pictures, {np.ptp(times):.1f} s of video")
            print(f"mouth region changes by {moving.mean():.2f} of 255 from look to look, at most {moving.max():.2f}")
            spoken, silent = contrast(times, moving)
            print(f"in the spoken second of every two it changes by {spoken:.2f}, in the silent one by {silent:.2f}")
            assert spoken > 3.0 * silent, "the mouth does not follow the sound"
            page.click("interrupt")
            page.until("window.live.report.idle", 30.0)
            page.click("leave")
            page.until("document.getElementById('status').textContent === 'Not connected'", 30.0)
            assert page.faults == [] and page.error == "", (page.faults, page.error)
            print({name: report[name] for name in ("left_out", "drift_ms", "round_ms", "encode_ms", "stream")})
    finally:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        print(f"exit status {process.wait(30)} {time.monotonic() - began:.1f} s after SIGTERM")


if __name__ == "__main__":
    main()
