"""The mouth probe on a drawn face whose opening, place and distractors are known."""

import numpy as np
import pytest
from scipy import ndimage

from knotjax import drive
from knotjax.data import motion, portraits
from knotjax.errors import InputError
from knotjax.evaluation import mouth, tracks

SIZE = 128
BOX = np.array([44, 78, 84, 104], np.float32)  # holds the mouth of the resting face at any opening


def face(opening, dx=0.0, dy=0.0, roll=0.0, scale=1.0, skin=(205, 160, 135), beard=False):
    """One picture uint8 [128, 128, 3]: hair, shirt, eyes and nostrils are as dark as the mouth's cavity."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    u, v = (x - 64 - dx) / scale, (y - 64 - dy) / scale
    u, v = u * np.cos(roll) + v * np.sin(roll), v * np.cos(roll) - u * np.sin(roll)
    picture = np.empty((SIZE, SIZE, 3))
    picture[:] = (90, 120, 150)

    def ellipse(cx, cy, rx, ry, colour):
        k0 = np.hypot((u - cx) / rx, (v - cy) / ry)
        k1 = np.hypot((u - cx) / rx**2, (v - cy) / ry**2) + 1e-9
        cover = np.clip(0.5 - scale * k0 * (k0 - 1) / k1, 0, 1)[..., None]
        picture[:] = picture * (1 - cover) + cover * np.array(colour)

    ellipse(0, 75, 60, 28, (30, 32, 45))  # shirt
    ellipse(0, -14, 43, 48, (40, 28, 22))  # hair
    ellipse(0, 4, 34, 46, skin)
    if beard:
        ellipse(0, 40, 24, 14, np.multiply(skin, (0.55, 0.5, 0.5)))
    for side in (-1, 1):
        ellipse(side * 13, -8, 7, 4, (240, 240, 240))
        ellipse(side * 13, -8, 3, 3, (35, 25, 20))
        ellipse(side * 3, 13, 1.5, 1, (60, 30, 30))
    ellipse(0, 27, 13, 3 + 6 * opening, (175, 85, 85))  # lips
    ellipse(0, 27, 10, 0.3 + 5.5 * opening, (55, 15, 20))  # cavity
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def speech(frames, seed):
    """Opening that swings and rests shut, float64 [T]."""
    noise = np.random.default_rng(seed).standard_normal(frames + 8)
    return np.clip(0.3 + 0.25 * np.convolve(noise, np.hanning(9), "valid"), 0, 1)


def wander(frames, seed):
    noise = np.random.default_rng(seed).standard_normal(frames + 40)
    smooth = np.convolve(noise, np.hanning(41), "valid")
    return smooth / np.abs(smooth).max()


def clip(openings, seed, shift=6.0, **look):
    """A video of a head that moves by up to `shift` pixels and a little in roll and size."""
    dx, dy, roll, scale = (wander(len(openings), 10 * seed + k) for k in range(4))
    return np.stack(
        [
            face(o, shift * dx[t], shift * dy[t], 0.12 * roll[t], 1 + 0.05 * scale[t], **look)
            for t, o in enumerate(openings)
        ]
    )


def probe(video, **look):
    return mouth.opening(video, mouth.calibrate(face(0, **look), face(1, **look), BOX))


@pytest.mark.parametrize("look", [{}, {"beard": True}, {"skin": (95, 62, 45)}])
def test_follows_the_opening_of_a_moving_head(look):
    truth = speech(60, 1)
    track = probe(clip(truth, 1, **look), **look)
    r, slope = tracks.correlation(track, truth), tracks.gain(track, truth)
    print(look, "r", r, "gain", slope, "lag", tracks.best_lag(track, truth))
    assert track.dtype == np.float32 and track.shape == (60,)
    assert r > 0.96 and 0.8 < slope < 1.2
    assert tracks.best_lag(track, truth) == 0


def test_ends_of_the_scale_do_not_depend_on_pose():
    shut, wide = probe(clip(np.zeros(40), 2)), probe(clip(np.ones(40), 2))
    print("shut", shut.max(), "wide", wide.min())
    assert shut.max() < 0.05 and wide.min() > 0.85


def test_frozen_mouth_stays_level():
    frozen = probe(clip(np.full(60, 0.4), 3))
    moving = probe(clip(speech(60, 3), 3))
    print("frozen sd", frozen.std(), "moving sd", moving.std())
    assert frozen.std() < 0.1 * moving.std()


def test_late_and_half_mouths_are_seen():
    truth = speech(60, 4)
    late = probe(clip(np.concatenate([np.full(3, truth[0]), truth[:-3]]), 4))
    half, full = (probe(clip(amount * truth, 4)) for amount in (0.5, 1))
    ratio = tracks.gain(half, truth) / tracks.gain(full, truth)
    print("half over full", ratio)
    assert tracks.best_lag(late, truth) == 3
    assert 0.4 < ratio < 0.6


@pytest.mark.parametrize("harm", ["blur", "noise", "cast"])
def test_harmed_pictures_keep_the_track(harm):
    truth = speech(60, 5)
    video = clip(truth, 5).astype(np.float32)
    if harm == "blur":
        video = ndimage.gaussian_filter(video, (0, 2, 2, 0))
    elif harm == "noise":
        video += np.random.default_rng(0).normal(0, 0.03 * 255, video.shape)
    else:
        video *= (1.1, 0.95, 0.9)
    track = probe(np.clip(np.round(video), 0, 255).astype(np.uint8))
    r, slope = tracks.correlation(track, truth), tracks.gain(track, truth)
    print(harm, "r", r, "gain", slope)
    assert r > 0.95 and 0.7 < slope < 1.15


def test_reference_box_moves_the_search():
    truth = speech(30, 6)
    video = np.stack([face(o, dx=16) for o in truth])
    known = mouth.calibrate(face(0), face(1), BOX)
    there = mouth.opening(video, known, BOX + np.array([16, 0, 16, 0]))
    lost = mouth.opening(video, known)
    print("there", tracks.correlation(there, truth), "lost", tracks.correlation(lost, truth))
    np.testing.assert_allclose(there, probe(np.stack([face(o) for o in truth])), atol=0.03)
    assert np.abs(lost - truth).mean() > 2 * np.abs(there - truth).mean()


def test_refuses_what_it_cannot_measure():
    with pytest.raises(InputError, match="same mouth"):
        mouth.calibrate(face(0), face(0), BOX)
    with pytest.raises(InputError, match="one size"):
        mouth.calibrate(face(0), face(1)[:64], BOX)
    with pytest.raises(InputError, match="calibration pictures"):
        mouth.opening(np.zeros((2, 64, 64, 3), np.uint8), mouth.calibrate(face(0), face(1), BOX))


def test_rendered_portraits_meet_the_floor():
    truths, found = [], []
    for seed in (1_000_000, 1_000_003):
        identity = portraits.sample_identity(seed)
        rng = np.random.default_rng(seed)
        channels = motion.sample_motion(rng, 62, "happy", "nod").channels
        truth = speech(62, seed)
        video = portraits.render(identity, channels, truth, np.clip(wander(62, seed), -1, 1))
        rest = np.zeros((2, len(drive.CHANNELS)), np.float32)
        ends = portraits.render(identity, rest, np.array([0, 1]), np.zeros(2))
        video, ends = (np.round(255 * pictures).astype(np.uint8) for pictures in (video, ends))
        known = mouth.calibrate(*ends, portraits.mouth_box(identity, rest)[0])
        found.append(mouth.opening(video, known, portraits.mouth_box(identity, channels[:1])[0]))
        truths.append(truth)
    r, slope = tracks.correlation(found, truths), tracks.gain(found, truths)
    silent = tracks.silence_opening(found, [truth < 0.02 for truth in truths])
    print("r", r, "gain", slope, "silent", silent)
    assert r > 0.93 and 0.85 < slope < 1.15 and silent < 0.05
