"""Recorded latents serve training as the corpus in memory does, and real clips work without motion."""

import jax
import numpy as np
import pytest

from configs import knot_forcing
from knotjax import bundle
from knotjax.data import clips, records
from knotjax.data.speech import load_fixture
from knotjax.drive import GROUPS, TEXT_SLOTS
from knotjax.errors import InputError
from knotjax.media import VideoWriter
from knotjax.models.patch_codec import CodecConfig, PatchCodec
from knotjax.training import codec_fit, corpus, distill, record, trainer
from tests.helpers import tiny

SIZES = CodecConfig(size=32, patch=8, channels=8, widths=(8, 8, 8))


@pytest.fixture
def model(monkeypatch):
    """A bundle whose codec takes pictures of 32 px, in place of the one shipped."""

    def make_clip(seed, seconds):
        return clips.make_clip(seed, seconds, size=32, utterance=load_fixture("vowels"))

    monkeypatch.setattr(corpus, "make_clip", make_clip)
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 256, (2, 9, 32, 32, 3)).astype(np.uint8)
    linear = codec_fit.fit_basis(SIZES, groups, moving=4, attention=0.5, whitening=0.5)
    sizes = tiny(latent_channels=SIZES.channels).config
    made = bundle.Bundle(sizes, SIZES, "knot_forcing", {}, {"codec": jax.tree.map(np.asarray, linear)})
    monkeypatch.setattr(bundle, "load", lambda folder: made)
    monkeypatch.setattr(record, "show_log", lambda: None)  # which would take pytest's own handlers away
    return made


def test_recorded_portraits_equal_encoded_ones(model, tmp_path, capsys):
    assert record.main(["--seeds=2", "--seconds=1.6", f"--output={tmp_path / 'out'}"]) == 0
    assert "2 samples" in capsys.readouterr().out
    paths = corpus.render(tmp_path / "out" / "rendered", 2, 1.6)
    expected = corpus.encode(paths, PatchCodec(SIZES), model.params["codec"])
    found = records.Records(tmp_path / "out")
    windows = corpus.Windows(3, dict(audio=0.0, all_motion=0.2, some_motion=0.3, words=0.3))
    for number in range(2):
        sample, clip = found[number], expected[number]
        assert sample.keys() == clip.keys()
        assert all(np.array_equal(sample[name], clip[name]) for name in clip)
        mine, theirs = (windows.sample(source, np.random.default_rng(5)) for source in (sample, clip))
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    batch = next(corpus.batches(found, windows, batch=2, seed=0))
    assert batch["latents"].shape == (2, 3, 4, 4, 8) and batch["mouth"].any()


@pytest.fixture
def videos(tmp_path):
    """A folder with a video of two seconds, and a broken one."""
    folder, rng = tmp_path / "clips", np.random.default_rng(0)
    folder.mkdir()
    sound = rng.uniform(-0.5, 0.5, 32_000).astype(np.float32)
    with VideoWriter(folder / "a.mp4", size=64, sound=sound) as writer:
        writer.write(rng.integers(0, 256, (50, 64, 64, 3)).astype(np.uint8))
    (folder / "b.mp4").write_text("broken")
    return folder


def test_real_clips_have_sound_but_no_motion(model, videos, tmp_path, capsys):
    rng = np.random.default_rng(0)
    assert record.main([f"--clips={videos}", "--seconds=0.96", f"--output={tmp_path / 'out'}"]) == 0
    found = records.Records(tmp_path / "out")
    assert len(found) == 2 and found[0]["group"].shape == (6, 4, 4, 8) and "channels" not in found[0]
    assert not found[0]["mouth"].any() and np.array_equal(found[0]["words"], np.zeros(TEXT_SLOTS))
    sample = corpus.Windows(3, dict(audio=0.0, all_motion=0.0, some_motion=0.0, words=0.0)).sample(found[0], rng)
    known = corpus.Windows(3, dict(audio=0.0, all_motion=1.0, some_motion=0.0, words=0.0))
    silent = known.sample(found[0] | {"channels": np.ones((24, GROUPS["expression"].stop), np.float32)}, rng)
    assert np.array_equal(sample["motion"], silent["motion"]), "as when all motion is left out"
    assert np.ptp(sample["audio"]) > 1.0
    assert record.main([f"--clips={videos}", "--seconds=0.96", f"--output={tmp_path / 'out'}"]) == 2
    assert record.main([f"--clips={tmp_path / 'none'}", f"--output={tmp_path / 'other'}"]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_the_papers_stages_take_records(model, videos, tmp_path):
    assert record.main([f"--clips={videos}", "--seconds=0.96", f"--output={tmp_path / 'out'}"]) == 0
    config = knot_forcing.get_config("small")
    config.records, config.teacher.batch, config.teacher.frames = str(tmp_path / "out"), 2, 4
    run = distill.prepare(config, tmp_path / "run", fallback=False)
    assert not (tmp_path / "run" / "corpus").exists()
    batch, (first, second) = next(run.data(config.teacher)), (run.clips[0]["group"], run.clips[1]["group"])
    for latents, (start, _) in zip(batch["latents"], batch["places"]):
        assert any(np.array_equal(latents[1:], group[start + 1 : start + 4]) for group in (first, second))
    config.teacher.frames = 7  # of a clip that has 6
    with pytest.raises(InputError, match=r"clip of 0\.96 s is too short: .* 1\.12 s"):
        next(run.data(config.teacher))
    other = {name: array + 0.1 for name, array in model.params["codec"].items()}
    with pytest.raises(InputError, match="another codec"):
        trainer.encoded(config, [], model.pixels, other)
    assert corpus.codec_sum(other | {"synthesis": {}}) == corpus.codec_sum(other), (
        "a decoder trained on is no other codec"
    )
    config.start = ""
    with pytest.raises(InputError, match=r"config\.start"):
        trainer.rendered(config, tmp_path)
