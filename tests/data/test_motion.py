import numpy as np
import pytest

from knotjax import drive
from knotjax.data import motion

FRAMES = 1500


def column(moves, name):
    return moves.channels[:, drive.CHANNELS.index(name)]


def draw(seed, emotion="neutral", action="nod", frames=FRAMES):
    return motion.sample_motion(np.random.default_rng(seed), frames, emotion, action)


def test_shapes_words_and_determinism():
    moves = draw(1, "sad", "shake")
    assert moves.channels.shape == (FRAMES, len(drive.CHANNELS)) and moves.channels.dtype == np.float32
    assert np.array_equal(moves.words, drive.word_ids("sad", "shake"))
    assert np.array_equal(moves.channels, draw(1, "sad", "shake").channels)
    assert not np.array_equal(moves.channels, draw(2, "sad", "shake").channels)


@pytest.mark.parametrize("frames", [0, 1, 3, 7])
def test_short_clips(frames):
    assert draw(3, frames=frames).channels.shape == (frames, len(drive.CHANNELS))


def test_pose_keeps_to_its_limits_and_starts_near_rest():
    tracks = [draw(seed, action=action).channels for seed in range(12) for action in drive.ACTIONS]
    for number, name in enumerate(drive.CHANNELS):
        limit = motion.POSE_LIMIT.get(name, 1.0)
        assert max(np.abs(track[:, number]).max() for track in tracks) <= limit + 1e-6, name
    for name, sd in motion.POSE_SD.items():
        number = drive.CHANNELS.index(name)
        print(name, "sd", np.mean([track[:, number].std() for track in tracks]), "first", tracks[0][0, number])
        assert max(abs(track[0, number]) for track in tracks) < 1.5 * sd
        steps = max(np.abs(np.diff(track[:, number])).max() for track in tracks)
        assert steps < 0.05, f"{name} jumps by {steps}"


def test_actions_move_their_own_channel():
    def size(action, name):
        return np.mean([column(draw(seed, action=action), name).std() for seed in range(12)])

    print({(a, n): round(size(a, n), 4) for a in drive.ACTIONS for n in ("yaw", "pitch")})
    assert size("nod", "pitch") > 1.1 * size("shake", "pitch")
    assert size("still", "yaw") < 0.5 * size("nod", "yaw")
    # A swing shows as power near 0.4-0.8 Hz that the slow wander lacks.
    hertz = np.fft.rfftfreq(FRAMES, 1 / drive.FPS)
    band = (hertz > 0.4) & (hertz < 0.8)

    def power(action, name):
        return np.mean([(np.abs(np.fft.rfft(column(draw(s, action=action), name)))[band] ** 2).sum() for s in range(8)])

    assert power("nod", "pitch") > 5 * power("shake", "pitch")
    assert power("shake", "yaw") > 5 * power("nod", "yaw")


def test_emotion_sets_where_brow_and_smile_rest():
    for emotion, (brow, smile) in motion.EXPRESSION.items():
        moves = draw(4, emotion)
        assert abs(column(moves, "brow").mean() - brow) < 0.12 and abs(column(moves, "smile").mean() - smile) < 0.12


def test_blinks_last_five_frames_with_natural_gaps():
    closed = column(draw(5), "blink") > 0
    edges = np.flatnonzero(np.diff(closed.astype(int)))
    starts, ends = edges[::2], edges[1::2]
    assert len(starts) >= 8
    assert set(ends - starts[: len(ends)]) == {5}
    gaps = starts[1:] - ends[: len(starts) - 1]
    print("gaps", gaps)
    assert gaps.min() >= 40 and gaps.max() <= 140


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="unknown word"):
        draw(0, emotion="bored", frames=5)
