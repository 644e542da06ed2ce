"""The encoders against transformers' PyTorch ones, float32: three seeds tiny, and two layers at full width."""

import dataclasses

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from knotjax.convert import clip_vision, umt5, wav2vec2  # noqa: E402
from knotjax.models.clip_vision import VIT_H, CLIPVision  # noqa: E402
from knotjax.models.umt5 import XXL, UMT5Encoder, distance_buckets  # noqa: E402
from knotjax.models.wav2vec2 import BASE, LARGE, Wav2Vec2  # noqa: E402
from tests.helpers import relative  # noqa: E402
from tests.models import encoders  # noqa: E402
from tests.parity import torch_encoders as twins  # noqa: E402

pytestmark = pytest.mark.parity
LIMIT = 1e-4
SEEDS = (0, 1, 2)


def cut(config, **changes):
    return dataclasses.replace(config, layers=2, **changes)


def report(name, seed, error):
    print(f"{name}, seed {seed}: {error:.1e}")
    assert error <= LIMIT


UMT5 = [("tiny", encoders.UMT5, seed) for seed in SEEDS] + [("full width", cut(XXL, vocabulary=64), 3)]
WAV2VEC2 = [(f"tiny {layout}", c, seed) for layout, c in encoders.WAV2VEC2.items() for seed in SEEDS]
WAV2VEC2 += [("full width base", cut(BASE), 3), ("full width large", cut(LARGE), 3)]
CLIP = [("tiny", encoders.CLIP, seed) for seed in SEEDS] + [("full width", cut(VIT_H), 3)]


@pytest.mark.parametrize(("name", "config", "seed"), UMT5)
def test_umt5(name, config, seed):
    twin = twins.umt5(config, seed)
    rng = np.random.default_rng(seed)
    valid = np.arange(200) < np.array([200, 70])[:, None]
    ids = np.where(valid, rng.integers(1, config.vocabulary, valid.shape), 0).astype(np.int32)
    with torch.no_grad():
        expected = twin(torch.as_tensor(ids).long(), attention_mask=torch.as_tensor(valid)).last_hidden_state.numpy()
    params = umt5.from_hugging_face(twins.weights(twin), config)
    del twin
    actual = np.asarray(jax.jit(UMT5Encoder(config).apply)({"params": params}, ids, valid))
    report(f"UMT5 {name}", seed, relative(actual[valid], expected[valid]))


def test_umt5_groups_of_distances():
    attention = twins.umt5(encoders.UMT5, 0).encoder.block[0].layer[0].SelfAttention
    offset = torch.arange(600)[None, :] - torch.arange(600)[:, None]
    np.testing.assert_array_equal(distance_buckets(600, 32, 128), attention._relative_position_bucket(offset))


@pytest.mark.parametrize(("name", "config", "seed"), WAV2VEC2)
@pytest.mark.parametrize("frames", [None, 23])
def test_wav2vec2(name, config, seed, frames):
    twin = twins.wav2vec2(config, seed)
    wave = np.random.default_rng(seed).standard_normal((2, 16_000)).astype(np.float32)
    expected = twins.wav2vec2_states(twin, wave, frames)
    params = wav2vec2.from_hugging_face(twins.weights(twin), config)
    model = Wav2Vec2(config)
    actual = jax.jit(lambda p, w: model.apply({"params": p}, w, frames))(params, wave)
    for level, (ours, theirs) in enumerate(zip(actual, expected)):
        report(f"wav2vec2 {name}, {frames or 'all'} rows, state {level}", seed, relative(ours, theirs))


@pytest.mark.parametrize("seed", SEEDS)
def test_wav2vec2_padded(seed):
    config = encoders.WAV2VEC2["large"]
    twin = twins.wav2vec2(config, seed)
    samples = np.array([16_000, 9000])
    wave = np.random.default_rng(seed).standard_normal((2, 16_000)).astype(np.float32)
    wave = np.where(np.arange(16_000) < samples[:, None], wave, 0)
    rows = [config.conv_frames(n) for n in samples]
    expected = twins.wav2vec2_states(twin, wave, samples=samples)
    valid = np.arange(rows[0]) < np.array(rows)[:, None]
    params = wav2vec2.from_hugging_face(twins.weights(twin), config)
    actual = np.asarray(Wav2Vec2(config).apply({"params": params}, wave, valid=valid))
    report("wav2vec2 tiny large, padded", seed, relative(actual[:, valid], expected[:, valid]))


@pytest.mark.parametrize(("layout", "config"), encoders.WAV2VEC2.items())
def test_transformers_opens_an_exported_folder(layout, config, tmp_path):
    from safetensors.numpy import save_file

    twin = twins.wav2vec2(config, 0)
    params = wav2vec2.from_hugging_face(twins.weights(twin), config)
    twin.config.save_pretrained(tmp_path)
    save_file(wav2vec2.to_hugging_face(params, config), tmp_path / "model.safetensors", metadata={"format": "pt"})
    opened = type(twin).from_pretrained(tmp_path, attn_implementation="eager").eval()
    wave = np.random.default_rng(0).standard_normal((1, 4000)).astype(np.float32)
    np.testing.assert_array_equal(twins.wav2vec2_states(opened, wave), twins.wav2vec2_states(twin, wave))


@pytest.mark.parametrize(("name", "config", "seed"), CLIP)
def test_clip_vision(name, config, seed):
    twin = twins.clip_vision(config, seed)
    pixels = np.random.default_rng(seed).standard_normal((2, config.image, config.image, 3)).astype(np.float32)
    with torch.no_grad():
        out = twin(torch.as_tensor(pixels).permute(0, 3, 1, 2), output_hidden_states=True)
    params = clip_vision.from_hugging_face(twins.weights(twin), config)
    tokens, pooled = jax.jit(CLIPVision(config).apply)({"params": params}, pixels)
    report(f"CLIP vision {name}, tokens", seed, relative(tokens, out.hidden_states[-2].numpy()))
    report(f"CLIP vision {name}, pooled", seed, relative(pooled, out.pooler_output.numpy()))
