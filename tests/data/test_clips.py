import numpy as np
import pytest

from knotjax import drive
from knotjax.data import clips
from knotjax.data.speech import Utterance, mouth_track
from knotjax.errors import InputError

WORDS = ((0.0, ""), (0.4, "a"), (0.6, "m"), (0.75, "i"), (0.9, ""))


def spoken(seconds=1.2):
    wave = np.sin(np.arange(int(seconds * drive.SAMPLE_RATE)) * 0.05).astype(np.float32) * 0.3
    return Utterance(wave, WORDS, "ami", "test")


def find(photo):
    return next(seed for seed in range(200) if clips.shows_photo(seed) == photo)


@pytest.mark.parametrize("photo", [False, True])
def test_a_clip_is_whole_and_repeatable(photo):
    seed = find(photo)
    clip, again = (clips.make_clip(seed, 1.2, utterance=spoken()) for _ in range(2))
    assert clip.frames.shape == (30, 128, 128, 3) and clip.frames.dtype == np.uint8
    assert clip.wave.shape == (19200,) and clip.wave.dtype == np.float32
    assert clip.channels.shape == (30, 11) and clip.words.shape == (2,)
    assert clip.mouth_box.shape == (30, 4) and clip.stable.shape == (128, 128) and clip.stable.any()
    assert (clip.seed, clip.text, clip.voice) == (seed, "ami", "test")
    for name in ("frames", "wave", "channels", "open", "wide", "words", "mouth_box", "stable"):
        assert np.array_equal(getattr(clip, name), getattr(again, name)), name


def test_mouth_follows_the_speech_and_rests_in_silence():
    clip = clips.make_clip(find(False), 1.6, utterance=spoken())
    opening, wide = mouth_track(WORDS, 40)
    assert np.array_equal(clip.open, opening) and np.array_equal(clip.wide, wide)
    assert clip.open[:7].max() == 0 and clip.open[26:].max() == 0 and clip.open.max() > 0.8
    assert clip.wave[19200:].max() == 0 and len(clip.wave) == 40 * 640


def test_speech_is_cut_to_the_clip():
    clip = clips.make_clip(find(False), 0.4, utterance=spoken(2.0))
    assert len(clip.frames) == 10 and len(clip.wave) == 6400


def test_seeds_give_different_people_and_about_one_in_twelve_is_the_photo():
    share = np.mean([clips.shows_photo(seed) for seed in range(2400)])
    print("share of photographs", share)
    assert 0.06 < share < 0.11
    one, two = (clips.make_clip(seed, 0.2, utterance=spoken()).frames.astype(int) for seed in (10, 11))
    assert np.abs(one - two).mean() > 5


def test_split_and_seed_must_agree():
    assert len(clips.make_clip(1_000_000, 0.04, "held_out", utterance=spoken()).frames) == 1
    for seed, split in ((1_000_000, "train"), (5, "held_out"), (-1, "train"), (5, "test")):
        with pytest.raises(InputError):
            clips.make_clip(seed, 0.2, split, utterance=spoken())
    with pytest.raises(InputError, match="no frame"):
        clips.make_clip(5, 0.01, utterance=spoken())
