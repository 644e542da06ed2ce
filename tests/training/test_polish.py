"""The decoder's training on generated latents: what it is shown, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from knotjax.data.clips import make_clip
from knotjax.data.speech import load_fixture
from knotjax.drive import STRIDE
from knotjax.models.patch_codec import CodecConfig, PatchCodec
from knotjax.training import codec_fit, corpus, loop
from knotjax.training.polish import Generated, generate, polish

CODEC = PatchCodec(CodecConfig(size=32, patch=8, channels=32, widths=(16, 16, 16)))
NOTHING_HIDDEN = dict(audio=0.0, all_motion=0.0, some_motion=0.0, words=0.0)


@pytest.fixture(scope="module")
def corpus_and_codec(tmp_path_factory):
    """Three clips, and a codec whose decoder adds something of every input."""
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            corpus, "make_clip", lambda seed, s: make_clip(seed, s, size=32, utterance=load_fixture("vowels"))
        )
        paths = corpus.render(folder, 3, 1.6)
    pairs = np.stack([corpus.Pairs().sample(path, np.random.default_rng(0))["pictures"] for path in paths])
    linear = codec_fit.fit_basis(CODEC.config, pairs, moving=16, attention=0.5, whitening=0.5)
    weights = CODEC.init_synthesis(jax.random.key(0))
    leaves, tree = jax.tree.flatten(weights)
    leaves = [a + 0.05 * jax.random.normal(jax.random.key(i), a.shape) for i, a in enumerate(leaves)]
    params = {name: jnp.asarray(a) for name, a in linear.items()} | {"synthesis": jax.tree.unflatten(tree, leaves)}
    return paths, corpus.encode(paths, CODEC, params), params


def halved(batch, seed):
    """A generator that moves only half as far from the portrait as it should."""
    return 0.5 * (batch["latents"] + batch["reference"])


def test_generated_latents_stand_beside_their_pixels(corpus_and_codec, tmp_path):
    paths, clips, params = corpus_and_codec
    calls = []

    def stream(batch, seed):
        calls.append(len(batch["latents"]))
        return halved(batch, seed)

    streams = generate(tmp_path / "streams", paths, clips, NOTHING_HIDDEN, 2, stream)
    assert calls == [2, 2], "the last batch is filled up"
    generate(tmp_path / "streams", paths, clips, NOTHING_HIDDEN, 2, stream)
    assert calls == [2, 2], "files that exist are kept"

    for path, streamed, clip in zip(paths, streams, clips):
        frames = corpus.read(path, "frames")["frames"]
        seen = set()
        for number in range(40):
            made = Generated(1.0).sample((path, streamed), np.random.default_rng(number))
            true = Generated(0.0).sample((path, streamed), np.random.default_rng(number))
            assert np.array_equal(made["frames"], true["frames"])
            shown = next(
                i for i in range(STRIDE - 1, len(frames), STRIDE) if np.array_equal(frames[i], made["portrait"])
            )
            portrait = clip["still"][shown // STRIDE].astype(np.float32)
            wanted = 0.5 * (true["latents"] + portrait)
            assert np.abs(made["latents"] - wanted).max() < 2e-3 * np.abs(wanted).max()
            _, latent = CODEC.encode_step(params, CODEC.init_encode(1, first=False), _float(true["frames"]))
            assert np.abs(latent[0, 0] - true["latents"][1]).max() < 0.02, "pixels of the second latent"
            if made["first"]:
                assert np.array_equal(made["frames"], np.repeat(frames[STRIDE - 1 : STRIDE], STRIDE, 0))
            seen.add(bool(made["first"]))
        assert seen == {True, False}


def _float(frames):
    return jnp.asarray(frames, jnp.float32)[None] / 127.5 - 1.0


def test_the_decoder_learns_what_the_generator_does_wrong(corpus_and_codec, tmp_path):
    paths, clips, params = corpus_and_codec
    streams = generate(tmp_path / "streams", paths, clips, NOTHING_HIDDEN, 3, halved)
    section = ConfigDict(dict(share=1.0, mouth=0.0, smooth=1e-3, batch=4, ema=0.9))
    section.optimiser = dict(steps=60, rate=3e-3, warmup=5, cooldown=0.5, b2=0.99)
    kept = loop.Running(log_every=1, save_every=60)
    polished = polish(section, tmp_path, CODEC, params, list(zip(paths, streams)), kept, seed=0)
    for name in ("mean", "basis", "scale"):
        assert np.array_equal(polished[name], params[name])

    def error(codec_params):
        samples = [Generated(1.0).sample(pair, np.random.default_rng(9)) for pair in zip(paths, streams)]
        batch = {name: np.stack([s[name] for s in samples]) for name in samples[0]}
        picture, truth = _float(batch["portrait"])[0], _float(batch["frames"])[0]
        return codec_fit.decoding_error(
            CODEC, codec_params, picture, batch["latents"], batch["first"], truth, batch["mouth"], mouth=0.0
        )[1]["mse"]

    before, after = float(error(params)), float(error(polished))
    print("mean squared error", before, "->", after)
    assert after < 0.85 * before
