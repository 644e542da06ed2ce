"""The training command on a tiny scale: all stages, resumed exactly."""

import functools
import json

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from configs.small import get_config
from knotjax import bundle
from knotjax.data import clips
from knotjax.data.speech import load_fixture
from knotjax.errors import InputError
from knotjax.training import corpus, loop, samples, trainer
from knotjax.weights import flatten


@functools.cache
def small_clip(seed, seconds):
    """A clip of 32 px that speaks a bundled recording, so that no speech synthesis is needed."""
    return clips.make_clip(seed, seconds, size=32, utterance=load_fixture("vowels"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Small clips; programs are compiled roughly, and once."""
    monkeypatch.setattr(corpus, "make_clip", small_clip)
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    compilation_cache.reset_cache()
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def config(steps):
    small = get_config("debug")
    small.optimiser.steps, small.save_every = steps, 2
    small.seconds, small.chunks = 2.4, 2
    small.codec.model.update(dict(size=32, patch=8, channels=32))
    small.codec.moving = 16
    small.dit.latent_channels = 32
    small.optimiser.muon = 0.0
    with small.unlocked():
        small.strips = True
    return small


def weights(folder):
    return flatten(bundle.load(folder / "weights").params)


def rows(folder):
    return [json.loads(line) for line in (folder / "dit.jsonl").read_text().splitlines()]


def test_stopped_and_resumed_equals_uninterrupted(tmp_path):
    trainer.train(config(4), tmp_path / "whole")

    class StoppedError(Exception):
        pass

    stopping = config(4)
    real, calls = loop.make_update, []

    def make_update(*arguments):
        update = real(*arguments)

        def counted(state, batch):
            if len(calls) == 5:  # two steps of the codec, and of the DiT the one after the checkpoint of step 2
                raise StoppedError
            calls.append(1)
            return update(state, batch)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_update", make_update)
        with pytest.raises(StoppedError):
            trainer.train(stopping, tmp_path / "parts")
    trainer.train(config(4), tmp_path / "parts")

    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    steps = rows(tmp_path / "whole")
    assert [row["step"] for row in steps] == [1, 2, 3, 4] and all(np.isfinite(row["loss"]) for row in steps)
    assert all(row["gradient"] > 0 and row["tokens_per_second"] > 0 for row in steps[1:])
    assert [row["loss"] for row in rows(tmp_path / "parts")[-2:]] == [row["loss"] for row in steps[-2:]]

    strip = np.asarray(Image.open(tmp_path / "whole" / "dit_strips" / "000004.png"))
    assert strip.shape == (2 * 32, samples.COLUMNS * 32, 3)
    truth, made = np.split(strip.astype(float), 2)
    assert np.std(truth) > 10 and np.std(made) > 0 and not np.array_equal(truth, made)

    # A further run may start from the finished model, codec included, and grow on the way; here by layers.
    further = config(1)
    further.start = str(tmp_path / "whole" / "weights")
    start = flatten(trainer.starting_point(further).params)
    assert all(np.array_equal(start[name], whole[name]) for name in whole)
    further.dit.layers, further.optimiser.rate, further.strips, further.polish.clips = 4, 0.0, False, 0
    trainer.train(further, tmp_path / "grown")
    grown = bundle.load(tmp_path / "grown" / "weights")
    after = flatten(grown.params)
    assert grown.dit.layers == 4
    assert np.array_equal(after["dit/blocks/block0/q/kernel"][:1], whole["dit/blocks/block0/q/kernel"])
    assert all(np.array_equal(whole[name], after[name]) for name in whole if name.startswith("codec"))
    further.dit.dim = 48  # sizes must fit
    with pytest.raises(InputError, match="other sizes"):
        trainer.train(further, tmp_path / "misfit")
