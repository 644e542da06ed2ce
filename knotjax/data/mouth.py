"""From phonemes to how far the mouth is open and how wide it is."""

import unicodedata

import numpy as np

from knotjax.drive import FPS

TRACK_RATE = 200  # steps per second before sampling at frame centres
WINDOW_SECONDS = 0.09

_OPEN_CLASSES = {
    0.0: "mbp",
    0.08: "fv",
    0.12: "sz",
    0.15: "tʃθðw",
    0.18: "d",
    0.2: "n",
    0.25: "ukɡŋj",
    0.28: "l",
    0.3: "ɹhi",
    0.35: "ɪʊ",
    0.45: "ə",
    0.5: "ɜ",
    0.55: "oe",
    0.65: "ɛ",
    0.7: "ɐ",
    0.75: "ʌ",
    0.8: "ɔ",
    0.9: "æ",
    1.0: "aɑ",
}
_WIDE_CLASSES = {1.0: "i", 0.7: "ɪe", 0.5: "ɛ", 0.4: "æsz", -0.5: "ɔ", -0.6: "ʃ", -0.7: "ʊ", -0.8: "o", -1.0: "uw"}
OPEN = {letter: value for value, letters in _OPEN_CLASSES.items() for letter in letters}  # 0 closed .. 1 widest
WIDE = {letter: value for value, letters in _WIDE_CLASSES.items() for letter in letters}  # -1 round .. 1 spread
_NEIGHBOURS = str.maketrans(
    {
        **dict(zip("gcqxɣɟ", "ɡkkkkj")),
        **dict(zip("rɾɻʁʀʒɕʑʂʐ", "ɹdɹɹɹʃʃʃʃʃ")),
        **dict(zip("ɫɬʎɭɲɳɴɱɸβʋʍɥ", "llllnnŋffffww")),
        **dict(zip("ɚɝɘɒᵻɨyʏøœʉɵɯɤɶʔçɦ", "əɜəɔɪɪuʊoɛʊʊʊʌahhh")),
        **dict(zip("ʈɖɓɗɠʣʦʧʤ", "tdbdɡzsʃʃ")),
    }
)
_UNKNOWN = (0.35, 0.0)


def shapes(ipa: str) -> list[tuple[float, float, int]]:
    """Mouth shapes of one phoneme string in the order they are spoken, as (open, wide, share of the time).

    Stress marks and other modifiers are passed over, a length mark doubles its sound's share, and a letter outside the
    class tables takes its nearest neighbour's shape. Silence is one closed shape.
    """
    found: list[tuple[float, float, int]] = []
    for letter in unicodedata.normalize("NFD", ipa).translate(_NEIGHBOURS):
        if letter in "ːˑ" and found:
            found[-1] = (*found[-1][:2], 2)
        elif letter in OPEN:
            found.append((OPEN[letter], WIDE.get(letter, 0.0), 1))
        elif unicodedata.category(letter) in ("Ll", "Lu", "Lo"):
            found.append((*_UNKNOWN, 1))
    return found or [(0.0, 0.0, 1)]


def _steps(phonemes) -> tuple[np.ndarray, np.ndarray]:
    """Where each constant piece of the track starts [n], and its (open, wide) [n, 2]."""
    times, values = [-np.inf], [(0.0, 0.0)]
    for number, (start, ipa) in enumerate(phonemes):
        parts = shapes(ipa)
        # The last phoneme has no successor to end it; it then holds for a typical sound's length.
        end = phonemes[number + 1][0] if number + 1 < len(phonemes) else start + 0.1
        total, done = sum(share for *_, share in parts), 0
        for opening, width, share in parts:
            times.append(start + (end - start) * done / total)
            values.append((opening, width))
            done += share
    if len(phonemes) and phonemes[-1][1]:
        times.append(phonemes[-1][0] + 0.1)
        values.append((0.0, 0.0))
    return np.array(times), np.array(values)


def mouth_track(phonemes, frames: int, offset_seconds: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Mouth opening and width at the centres of video frames.

    Each phoneme holds its class's shape until the next begins; the steps are taken at 200 Hz, smoothed by a 90 ms Hann
    window, and read at (j + 0.5) / 25 seconds. Before the first phoneme, in pauses and after the last the mouth rests.

    Args:
      phonemes: (start in seconds, IPA string) in order of time; an empty string is a pause.
      frames: number of video frames T.
      offset_seconds: where in the sound frame 0 begins.

    Returns:
      open float32 [T] in 0..1 and wide float32 [T] in -1..1.
    """
    window = np.hanning(round(WINDOW_SECONDS * TRACK_RATE) + 1)
    window /= window.sum()
    reach = len(window) // 2
    stride = TRACK_RATE // FPS
    ticks = np.arange(-reach, stride * frames + reach)
    times, values = _steps(tuple(phonemes))
    # A thousandth of a step of slack keeps a boundary that falls on a tick from depending on rounding.
    row = np.searchsorted(times, offset_seconds + (ticks + 1e-3) / TRACK_RATE, side="right") - 1
    track = values[row]  # [ticks, 2]
    smooth = np.lib.stride_tricks.sliding_window_view(track, len(window), axis=0) @ window  # [stride * T, 2]
    at_centres = smooth[stride // 2 :: stride][:frames].astype(np.float32)
    return at_centres[:, 0], at_centres[:, 1]
