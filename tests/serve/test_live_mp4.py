import io

import av
import numpy as np
import pytest

from knotjax.drive import FRAME
from knotjax.media.fragments import COMMENT
from knotjax.serve.live_mp4 import LiveMp4

SIZE = 64


def grey(first, count):
    """Frames that differ from their neighbours, uint8 [count, 64, 64, 3]."""
    value = (30 + 53 * (first + np.arange(count)) % 190).astype(np.uint8)
    return np.broadcast_to(value[:, None, None, None], (count, SIZE, SIZE, 3))


def wave(first, count):
    times = np.arange(first * FRAME, (first + count) * FRAME) / 16_000
    return (0.5 * np.sin(2 * np.pi * 440 * times) * (np.sin(2 * np.pi * 2 * times) > 0)).astype(np.float32)


def decode(data):
    """Times and grey values of the frames, and the sound as float32 [n] at 48 kHz from its first time on."""
    pictures, pieces, began = [], [], None
    with av.open(io.BytesIO(data)) as container:
        comment = container.metadata.get("comment")
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                pictures.append((frame.time, int(frame.to_ndarray(format="rgb24")[32, 32, 1])))
            else:
                began = frame.time if began is None else began
                pieces.append(frame.to_ndarray().reshape(-1))
    return pictures, np.concatenate(pieces), began, comment


def test_every_fragment_adds_its_frames_and_sound_without_a_gap():
    mp4, first, data = LiveMp4(SIZE), 0, b""
    data = mp4.head
    for count in (9, 12, 12, 5, 12):
        data += mp4.add(grey(first, count), wave(first, count))
        first += count
        pictures, sound, _, _ = decode(data)
        assert len(pictures) == first, "no frame waits for the next fragment"
        assert abs(len(sound) / 48_000 - first / 25) < 0.02, "nor does sound"
    pictures, sound, began, comment = decode(data)
    assert comment == COMMENT
    assert [time for time, _ in pictures] == pytest.approx([n / 25 for n in range(first)], abs=1e-6)
    wanted = [int(v[0, 0, 0]) for v in grey(0, first)]
    assert np.abs(np.subtract([value for _, value in pictures], wanted)).max() < 12
    truth = np.repeat(wave(0, first), 3)
    lags = range(-960, 961, 8)
    shifted = [np.corrcoef(truth[2000:60_000] ** 2, sound[2000 + lag : 60_000 + lag] ** 2)[0, 1] for lag in lags]
    late = lags[int(np.argmax(shifted))] / 48_000 + began
    print(f"sound is {1000 * late:.1f} ms late, correlation {max(shifted):.3f}")
    assert abs(late) < 0.02 and max(shifted) > 0.9


def test_a_player_can_begin_at_any_fragment():
    mp4 = LiveMp4(SIZE)
    fragments = [mp4.add(grey(12 * n, 12), wave(12 * n, 12)) for n in range(4)]
    pictures, _, _, _ = decode(mp4.head + fragments[2])
    assert pictures[0][0] == pytest.approx(24 / 25)
    assert pictures[0][1] == pytest.approx(int(grey(24, 1)[0, 0, 0, 0]), abs=12)


def test_time_goes_on_where_frames_are_missing():
    mp4 = LiveMp4(SIZE)
    data = mp4.head + mp4.add(grey(0, 12), wave(0, 12))
    data += mp4.add(grey(12, 4), wave(12, 12))
    data += mp4.add(grey(0, 0), wave(24, 12))
    data += mp4.add(grey(36, 12), wave(36, 12))
    pictures, sound, _, _ = decode(data)
    times = [time for time, _ in pictures]
    assert times[12:17] == pytest.approx([0.48, 0.52, 0.56, 0.60, 0.96]) and times[17] == pytest.approx(1.44)
    assert pictures[16][1] == pytest.approx(pictures[15][1], abs=6), "the last frame stays"
    assert abs(len(sound) / 48_000 - 48 / 25) < 0.02


def test_the_same_pieces_make_the_same_bytes():
    def made():
        mp4 = LiveMp4(SIZE)
        return [mp4.head] + [mp4.add(grey(12 * n, 12), wave(12 * n, 12)) for n in range(5)]

    assert made() == made()


def test_the_type_names_what_is_inside():
    mp4 = LiveMp4(SIZE)
    profile = mp4.head[mp4.head.index(b"avcC") + 5 :][:3].hex().upper()
    assert mp4.mime == f'video/mp4; codecs="avc1.{profile},opus"'
