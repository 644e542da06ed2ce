"""The whole path on a tiny model with random weights, and the shipped model on its own fixtures."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from knotjax import bundle, drive
from knotjax.errors import InputError
from knotjax.evaluation import metrics
from knotjax.media import read_video
from knotjax.models import speech
from knotjax.pipeline import Animator
from tests.animators import CODEC, DIT, portrait, tiny, voice


@pytest.fixture(scope="module", name="tiny")
def tiny_animator():
    return tiny()


@pytest.mark.parametrize("samples", [1, 641, 30_123])
def test_frames_are_the_ceiling_of_the_duration(tiny, tmp_path, samples):
    output = tmp_path / "out.mp4"
    report = tiny.animate(portrait(), voice(samples / drive.SAMPLE_RATE), output)
    video, fps, sound = read_video(output)
    expected = -(-samples * drive.FPS // drive.SAMPLE_RATE)
    assert report.frames == len(video) == expected and fps == drive.FPS
    assert abs(len(sound) / drive.SAMPLE_RATE - expected / drive.FPS) <= 1 / drive.FPS
    assert str(output) in report.line() and f"{expected} frames" in report.line()
    assert report.real_time_factor > 0 and report.memory_mib > 50 and len(report.block_seconds) >= 1
    assert not output.with_name("out.mp4.part").exists()


def test_seconds_shorten_and_lengthen(tiny, tmp_path):
    for seconds, frames in ((0.5, 13), (2.0, 50)):
        report = tiny.animate(portrait(), voice(1.0), tmp_path / "out.mp4", seconds=seconds, overwrite=True)
        assert report.frames == frames == len(read_video(tmp_path / "out.mp4")[0])


def blocks(animator, **changes):
    given = {"image": portrait(), "audio": voice(1.5), "frames": 36} | changes
    return [piece.frames for piece in animator.stream(**given)]


def test_stream_yields_blocks_and_depends_on_everything(tiny):
    base = blocks(tiny)
    assert [len(block) for block in base] == [9, 12, 12, 3]
    assert all(np.array_equal(a, b) for a, b in zip(base, blocks(tiny), strict=True))
    channels = np.random.default_rng(3).normal(size=(36, len(drive.CHANNELS))).astype(np.float32)
    changes = [
        {"image": portrait(1)},
        {"audio": voice(1.5, seed=1)},
        {"channels": channels},
        {"channels": channels, "present": [True, False, False, False]},
        {"emotion": "happy"},
        {"action": "nod"},
        {"seed": 1},
    ]
    seen = [np.concatenate(base)] + [np.concatenate(blocks(tiny, **change)) for change in changes]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert not np.array_equal(one, other)


def test_frames_do_not_depend_on_later_sound(tiny):
    """Causality: sound beyond the look-ahead of a block does not reach it."""
    wave = voice(3.0)
    changed = wave.copy()
    # Block 0 shows frames 0..8, hears latents 0..3 (frames ..12) and two frames and 7.5 ms more.
    edge = 15 * speech.FRAME + speech.MARGIN
    changed[edge:] = 0.3
    one = next(tiny.stream(portrait(), wave)).frames
    assert np.array_equal(one, next(tiny.stream(portrait(), changed)).frames)
    changed[edge - speech.FRAME :] = 0.3
    assert not np.array_equal(one, next(tiny.stream(portrait(), changed)).frames)


def test_a_hard_portrait_is_animated_with_a_note(tiny, tmp_path):
    report = tiny.animate(portrait(), voice(0.2), tmp_path / "hard.mp4")  # white noise
    assert len(report.notes) == 1 and "hard for the model" in report.notes[0] and "\n" not in report.notes[0]
    assert (tmp_path / "hard.mp4").exists()


def test_bundle_round_trip_and_refusals(tiny, tmp_path):
    tiny.model.save(tmp_path / "model", dtype=np.float32)
    again = Animator.load(tmp_path / "model")
    assert again.model.dit == DIT and again.model.codec == CODEC
    assert all(np.array_equal(a, b) for a, b in zip(blocks(tiny), blocks(again), strict=True))
    with pytest.raises(InputError, match="nowhere"):
        Animator.load(tmp_path / "nowhere")
    other = dataclasses.replace(tiny.model, plan={**tiny.model.plan, "nonsense": 1})
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match="another version"):
        Animator.load(tmp_path / "other").plan()


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"method": "nonsense"}, "unknown"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"emotion": "hungry"}, "hungry"),
        ({"image": "missing.png"}, "missing.png"),
        ({"audio": "missing.wav"}, "missing.wav"),
    ],
)
def test_unusable_arguments_leave_nothing(tiny, tmp_path, arguments, reason):
    given = {"image": portrait(), "audio": voice(0.2), "output": tmp_path / "out.mp4"} | arguments
    with pytest.raises(InputError, match=reason):
        tiny.animate(**given)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def shipped():
    return Animator.load()


def test_shipped_files_fit(shipped):
    total = sum(file.stat().st_size for file in bundle.SHIPPED.iterdir())
    print(f"shipped model: {total / 2**20:.2f} MiB")
    assert total <= 16 * 2**20
    assert shipped.size >= 128


def test_shipped_model_follows_the_voice(shipped):
    """A quick guard; `knotjax evaluate` measures."""
    from knotjax import evaluate
    from knotjax.data.clips import FIRST_HELD_OUT_SEED, make_clip
    from knotjax.data.speech import load_fixture
    from knotjax.evaluation import mouth, tracks

    clip = make_clip(FIRST_HELD_OUT_SEED, 4.0, "held_out", utterance=load_fixture("held_out_a"))
    video, _ = evaluate.generate(shipped, clip, "sound", 0)
    track = mouth.opening(video, evaluate.calibration(clip), clip.mouth_box[0])
    r = tracks.correlation(track, clip.open)
    likeness = metrics.psnr(video, clip.frames)
    print(f"sound only: r {r:.3f}, lag {tracks.best_lag(track, clip.open)}, {likeness:.1f} dB")
    assert r > 0.5 and abs(tracks.best_lag(track, clip.open)) <= 1


def test_any_picture(shipped, tmp_path):
    """A picture that is nothing like the training data still makes a video."""
    Image.fromarray(portrait(2, 200)).convert("RGBA").save(tmp_path / "odd.png")
    report = shipped.animate(tmp_path / "odd.png", voice(0.4), tmp_path / "out.mp4")
    assert report.frames == 10 and report.notes
