"""A long stream, faster than real time: memory, sound against picture, and steadiness of block times:

    python -m experiments.live.soak --hours 1

Memory of the last quarter is compared with that of the first. The bundled recording is repeated without end, so the
mouth moves in the same rhythm all the time: the lag of its rhythm in the last quarter behind the first is how far
picture and sound have come apart; the sound itself must be what was pushed. Block times are looked at in runs of ten
minutes of video, of which the best of the first three counts.
"""

import argparse

import numpy as np

from experiments.live.common import PORTRAIT, sound, verdict
from experiments.long_run.measure import resident_mib
from knotjax import drive
from knotjax.live import Engine, LiveSession
from knotjax.pipeline import Animator

RUN = 10 * 60 * drive.FPS  # frames


class Rhythm:
    """How much the mouth moves at each frame of the recording, early and late in the stream."""

    def __init__(self, period: int, frames: int):
        self._early, self._late = np.zeros(period), np.zeros(period)
        self._frames, self._before = frames, None

    def add(self, number: int, frame: np.ndarray) -> None:
        size = frame.shape[0]
        mouth = frame[size // 2 : 7 * size // 8, size // 4 : 3 * size // 4].astype(np.float32)
        if self._before is not None:
            part = self._early if 4 * number < self._frames else self._late if 4 * number > 3 * self._frames else None
            if part is not None:
                part[number % len(part)] += np.abs(mouth - self._before).mean()
        self._before = mouth

    def lag(self) -> int:
        """Frames by which the late rhythm comes after the early one."""
        early, late = (np.fft.rfft(part - part.mean()) for part in (self._early, self._late))
        lag = int(np.argmax(np.fft.irfft(late * np.conj(early), len(self._early))))
        return lag if lag < len(self._early) / 2 else lag - len(self._early)


def soak(session: LiveSession, wave: np.ndarray, frames: int, rhythm: Rhythm) -> tuple[list[float], list[float], int]:
    """Resident memory and computing time of every block, and the samples that were not those pushed."""
    memory, work, wrong, pushed, number = [], [], 0, 0, 0
    while number < frames:
        while pushed - number * drive.FRAME < 4 * drive.SAMPLE_RATE:
            session.push_audio(wave.take(range(pushed, pushed + drive.FRAME * drive.FPS), mode="wrap"))
            pushed += drive.FRAME * drive.FPS
        shown = session.take(60.0)
        assert shown is not None and shown.first == number, "frames are missing"
        memory.append(resident_mib())
        work.append(session.work)
        wanted = wave.take(range(number * drive.FRAME, number * drive.FRAME + len(shown.sound)), mode="wrap")
        wrong += int((shown.sound != wanted).sum())
        for frame in shown.frames:
            rhythm.add(number, frame)
            number += 1
    return memory, work, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="A long live stream.")
    parser.add_argument("--hours", type=float, default=1.0, help="of video (default: %(default)s)")
    frames = round(parser.parse_args().hours * 3600 * drive.FPS)
    wave = sound()
    wave = np.pad(wave, (0, -len(wave) % drive.FRAME))
    rhythm = Rhythm(len(wave) // drive.FRAME, frames)
    with Engine(Animator.load()) as engine, engine.open(PORTRAIT, pace=False) as session:
        memory, work, wrong = soak(session, wave, frames, rhythm)
    seconds = frames / drive.FPS
    print(f"{frames} frames ({seconds / 60:.1f} min), computing {sum(work) / seconds:.3f} of real time")
    quarter = max(1, len(memory) // 4)
    first, last = np.median(memory[:quarter]), np.median(memory[-quarter:])
    growth = 100 * (last / first - 1)
    verdict(growth <= 2.0, f"memory {first:.1f} MiB in the first quarter, {last:.1f} in the last: {growth:+.2f} %")
    lag = rhythm.lag()
    verdict(lag == 0 and not wrong, f"picture lags sound by {lag} frames, {wrong} samples are not those pushed")
    ratios, blocks = [], max(1, len(work) * RUN // frames)
    for start in range(0, min(len(work), 3 * blocks), blocks):
        p50, p99 = np.percentile(work[start : start + blocks], (50, 99)) * 1000
        ratios.append(p99 / p50)
        print(f"run {len(ratios)}: block p50 {p50:.1f} ms, p99 {p99:.1f} ms, p99 / p50 {ratios[-1]:.2f}")
    verdict(min(ratios) <= 1.5, f"p99 / p50 of the block time in the best run: {min(ratios):.2f} (at most 1.5)")


if __name__ == "__main__":
    main()
