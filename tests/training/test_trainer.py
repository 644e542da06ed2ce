"""The training command on a tiny scale: all stages, resumed exactly."""

import json

import numpy as np
import pytest

from configs.small import get_config
from knotjax import bundle
from knotjax.data import clips
from knotjax.data.speech import load_fixture
from knotjax.errors import InputError
from knotjax.training import corpus, loop, trainer
from knotjax.weights import flatten


@pytest.fixture(autouse=True)
def recorded_speech(monkeypatch):
    """Clips speak a bundled recording, so that no speech synthesis is needed."""

    def make_clip(seed, seconds):
        return clips.make_clip(seed, seconds, utterance=load_fixture("vowels"))

    monkeypatch.setattr(corpus, "make_clip", make_clip)


def config(steps):
    small = get_config("debug")
    small.optimiser.steps, small.save_every = steps, 2
    small.seconds = 2.4
    return small


def weights(folder):
    return flatten(bundle.load(folder / "weights").params)


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
    rows = [json.loads(line) for line in (tmp_path / "whole" / "dit.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(np.isfinite(row["loss"]) for row in rows)
    again = [json.loads(line) for line in (tmp_path / "parts" / "dit.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in again[-2:]] == [row["loss"] for row in rows[-2:]]

    # A further run may start from the finished model, codec included.
    further = config(2)
    further.start = str(tmp_path / "whole" / "weights")
    trainer.train(further, tmp_path / "further")
    after = weights(tmp_path / "further")
    assert all(np.array_equal(whole[name], after[name]) for name in whole if name.startswith("codec"))
    assert any(not np.array_equal(whole[name], after[name]) for name in whole if name.startswith("dit"))

    # It may grow on the way; here by layers, whose sizes must fit.
    further.dit.layers, further.optimiser.steps, further.optimiser.rate = 4, 1, 0.0
    trainer.train(further, tmp_path / "grown")
    grown = bundle.load(tmp_path / "grown" / "weights")
    assert grown.dit.layers == 4
    kept = flatten(grown.params)["dit/blocks/block0/q/kernel"][:1]
    assert np.array_equal(kept, whole["dit/blocks/block0/q/kernel"])
    further.dit.dim = 48
    with pytest.raises(InputError, match="other sizes"):
        trainer.train(further, tmp_path / "misfit")
