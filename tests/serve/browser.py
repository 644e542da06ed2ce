"""A person at the page, played by Chromium: `Page` opens it, uploads, listens, interrupts and leaves."""

import contextlib
import io
import shutil
import tempfile
import time

import numpy as np
import soundfile

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]  # fmt: skip
# Looks at the video twenty times a second: the mean of a patch, and how far apart two looks are.
WATCH = """(patch) => {
  const video = document.getElementById("video"), size = 128;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  window.looks = [];
  window.watching = setInterval(() => {
    if (!video.videoWidth) return;
    pen.drawImage(video, 0, 0, size, size);
    const { data } = pen.getImageData(0, 0, size, size);
    const at = (x, y) => { const n = 4 * (y * size + x); return (data[n] + data[n + 1] + data[n + 2]) / 3; };
    const [left, top, right, bottom] = patch.map((part) => Math.round(part * size));
    const values = [];
    for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) values.push(at(x, y));
    let sum = 0;
    for (let n = 0; n < size * size; n += 7) sum += at(n % size, Math.floor(n / size)) * (1 + (n % 13));
    window.looks.push({ time: video.currentTime, values, sum });
  }, 50);
}"""


class Page:
    """The page of a server at a port, in a fresh browser."""

    def __init__(self, page, port: int):
        self._page, self.faults = page, []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda entry: entry.type == "error" and self.faults.append(entry.text))
        page.goto(f"http://127.0.0.1:{port}/")
        self.until("document.querySelectorAll('#emotion option').length > 1")

    def start(self, portrait=None, seconds=60.0):
        """Choose a portrait file and start; returns when the video plays."""
        if portrait is not None:
            self._page.set_input_files("#picture", portrait)
        self._page.click("#start")
        self.until("document.getElementById('video').currentTime > 0.5", seconds)

    def until(self, expression, seconds=60.0):
        """Wait until something holds; by asking again, as the page's own rules forbid other scripts."""
        end = time.monotonic() + seconds
        while not self._page.evaluate(expression):
            assert time.monotonic() < end, (
                f"{expression} does not come true: {self.status}, {self.error}, {self.faults}"
            )
            self._page.wait_for_timeout(50)

    def evaluate(self, expression, *arguments):
        return self._page.evaluate(expression, *arguments)

    def click(self, name):
        self._page.click(f"#{name}")

    def speak(self, path):
        self._page.set_input_files("#sound", path)

    def watch(self, patch, seconds):
        """Look at a patch (left, top, right, bottom as shares) for a time.

        Returns:
          Times of the video, patches float [n, pixels], and one number that tells pictures apart, [n].
        """
        self._page.evaluate(WATCH, list(patch))
        time.sleep(seconds)
        looks = self._page.evaluate("() => { clearInterval(window.watching); return window.looks; }")
        return tuple(np.array([look[name] for look in looks]) for name in ("time", "values", "sum"))

    def shoot(self, path):
        self._page.screenshot(path=path)

    @property
    def status(self):
        return self._page.inner_text("#status")

    @property
    def error(self):
        return self._page.inner_text("#error") if self._page.is_visible("#error") else ""


@contextlib.contextmanager
def browsing(port: int):
    """A page in a browser whose profile is new and thrown away."""
    from playwright.sync_api import sync_playwright

    profile = tempfile.mkdtemp(prefix="knotjax-browser-")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch_persistent_context(
                profile, executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1100, "height": 800},
                permissions=["microphone"],
            )  # fmt: skip
            try:
                yield Page(browser.pages[0], port)
            finally:
                browser.close()
    finally:
        shutil.rmtree(profile, ignore_errors=True)


def bursts(voice: np.ndarray, seconds: float = 8.0) -> bytes:
    """A WAV file of speech float32 [n] at 16 kHz, repeated, with silence in every other second."""
    wave = np.resize(voice, round(seconds * 16_000)).astype(np.float32)
    wave *= np.arange(len(wave)) // 16_000 % 2 == 0
    data = io.BytesIO()
    soundfile.write(data, wave, 16_000, format="WAV", subtype="PCM_16")
    return data.getvalue()
