"""Log-mel rows: which samples a row reads, and that pieces equal the whole."""

import numpy as np
import pytest

from knotjax.models import speech
from tests.helpers import relative


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def by_definition(wave, frame):
    """One row straight from the definition, float64."""
    padded = np.pad(wave.astype(np.float64), (4000, 4000))
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(400) / 400.0)
    row = []
    for hop in range(4):
        first = 640 * frame + 160 * hop - 120 + 4000
        power = np.abs(np.fft.rfft(padded[first : first + 400] * window, 512)) ** 2
        row.append((np.log(power @ speech.mel_filters().astype(np.float64) / 400.0 + 1e-6) + 7.0) / 4.0)
    return np.concatenate(row)


def test_rows_follow_their_definition():
    wave = noise(640 * 60)
    rows = speech.speech_rows(wave, 60)
    assert rows.shape == (60, speech.WIDTH) and rows.dtype == np.float32
    error = max(np.max(np.abs(rows[j] - by_definition(wave, j))) for j in (0, 1, 30, 49, 50, 59))
    print("rows against definition", error)
    assert error <= 1e-3


@pytest.mark.parametrize("row", [3, 50])
def test_samples_that_a_row_reads(row):
    """Row j reads samples 640 j - 120 .. 640 j + 760; row 50 begins a new compiled piece."""
    wave = noise(640 * 54)
    plain = speech.speech_rows(wave, 54)
    low, high = 640 * row - 120, 640 * row + 760
    for sample in (low - 1, high, low - 300, high + 500):
        other = wave.copy()
        other[sample] += 0.5
        np.testing.assert_array_equal(speech.speech_rows(other, 54)[row], plain[row])
    for sample in (low + 20, high - 20, 640 * row, 640 * row + 639):
        other = wave.copy()
        other[sample] += 0.5
        assert np.max(np.abs(speech.speech_rows(other, 54)[row] - plain[row])) > 1e-5, sample
    outside = wave.copy()
    outside[:low] = outside[high:] = 0.3
    np.testing.assert_array_equal(speech.speech_rows(outside, 54)[row], plain[row])


def test_pieces_equal_the_whole():
    wave = noise(640 * 120 + 333)
    whole = speech.speech_rows(wave, 121)
    for frames in (1, 7, 49, 50, 51, 100):
        np.testing.assert_array_equal(speech.speech_rows(wave, frames), whole[:frames])
        enough = wave[: 640 * frames + 120]  # 7.5 ms beyond the last row
        np.testing.assert_array_equal(speech.speech_rows(enough, frames), whole[:frames])
    live = []
    for first in range(0, 121, 11):  # a live stream keeps one pixel frame of the past
        kept = max(first - 1, 0)
        part = speech.speech_rows(wave[640 * kept : 640 * (first + 11) + 120], first + 11 - kept)
        live.append(part[first - kept :])
    live = np.concatenate(live)[:121]
    print("live against whole", relative(live, whole))
    assert relative(live, whole) <= 1e-5


def test_silence_and_the_end():
    rows = speech.speech_rows(noise(640 * 5), 12)
    np.testing.assert_allclose(rows[6:], speech.SILENCE, atol=1e-6)
    assert np.max(np.abs(rows[5] - speech.SILENCE)) > 0.1, "the margin of row 5 reaches back into the sound"
    np.testing.assert_allclose(speech.speech_rows(np.zeros(0, np.float32), 3), speech.SILENCE, atol=1e-6)
    assert speech.speech_rows(noise(640), 0).shape == (0, speech.WIDTH)


def test_a_tone_lands_in_its_band():
    time = np.arange(640 * 10) / 16_000.0
    peaks = []
    for hertz in (200.0, 1000.0, 4000.0):
        rows = speech.speech_rows(np.sin(2 * np.pi * hertz * time), 10).reshape(40, speech.BANDS)
        peaks.append(int(rows[10:30].mean(0).argmax()))
        centre = speech.mel_filters()[:, peaks[-1]].argmax() * 16_000 / 512
        assert abs(centre - hertz) <= 0.1 * hertz + 32.0
    assert peaks == sorted(peaks)


def test_windows():
    """Latent frame f shows pixel frames 4f - 3 .. 4f and hears two more on either side."""
    rows = np.arange(20, dtype=np.float32)[:, None] * np.ones(speech.WIDTH, np.float32)
    windows = speech.speech_windows(rows, 0, 7)
    assert windows.shape == (7, 8, speech.WIDTH)
    for f in range(7):
        for p, frame in enumerate(range(4 * f - 5, 4 * f + 3)):
            expected = frame if 0 <= frame < 20 else np.float32(speech.SILENCE)
            np.testing.assert_array_equal(windows[f, p], expected)
    np.testing.assert_array_equal(speech.speech_windows(rows, 3, 2), windows[3:5])
    empty = speech.speech_windows(rows[:0], 2, 3)
    assert empty.shape == (3, 8, speech.WIDTH)
    np.testing.assert_allclose(empty, speech.SILENCE, rtol=1e-6)
    assert speech.WINDOW_FRAMES == 8
