"""The DiT against a second implementation in numpy, and its response to every input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models.conditioning import packed_windows, pixel_frame_windows
from knotjax.models.dit import Context, RMSNorm, timestep_features, undriven
from tests.helpers import (
    IMAGE,
    PACKED,
    PIXEL_FRAMES,
    TINY,
    UNDRIVEN,
    normal,
    precision,
    random_conditions,
    random_params,
    relative,
    tiny,
)
from tests.models import numpy_dit

GRID = (4, 6)  # latents


def inputs(config, dtype, batch=2, frames=3, seed=0):
    """Random arguments of one forward, with two context groups of which some frames do not exist."""
    rng = np.random.default_rng(seed)
    shape = (batch, frames, *GRID, config.latent_channels)
    tokens = GRID[0] * GRID[1] // config.patch**2
    contexts = []
    for positions, valid in (([9], [[True], [True]]), ([-1, -3, -2], [[True, False, True], [False, False, True]])):
        k, v = (
            normal(rng, (config.layers, batch, len(positions), config.heads, tokens, config.head_dim), dtype)
            for _ in range(2)
        )
        position = jnp.tile(jnp.array(positions, jnp.int32), (batch, 1))
        contexts.append(Context(k, v, position, jnp.array(valid[:batch])))
    return dict(
        x=normal(rng, shape, dtype),
        given=normal(rng, shape, dtype),
        mask=jnp.asarray(rng.integers(0, 2, (batch, frames)), dtype),
        t=jnp.asarray(rng.uniform(0, 1000, (batch, frames)), dtype),
        position=jnp.tile(jnp.arange(frames, dtype=jnp.int32), (batch, 1)),
        conditions=random_conditions(config, rng, batch, frames, dtype),
        contexts=tuple(contexts),
    )


def forward(model, params, arguments):
    return jax.jit(lambda params, arguments: model.apply({"params": params}, **arguments))(params, arguments)


CASES = {
    "driven": dict(motion_every=2, given_residual=True),
    "undriven": UNDRIVEN,
    "plain": UNDRIVEN | dict(inputs="plain"),
    "image": UNDRIVEN | IMAGE,
    "image and pixel frames": UNDRIVEN | IMAGE | PIXEL_FRAMES | dict(audio_tokens=2, memory_ratio=5),
    "packed sound": UNDRIVEN | PACKED,
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_equals_numpy(changes):
    with precision("float64") as dtype:
        model = tiny(**changes)
        params, arguments = random_params(model, 2, dtype), inputs(model.config, dtype)
        out, (k, v) = forward(model, params, arguments)
        plain = jax.tree.map(np.asarray, params)
        conditions = arguments["conditions"]
        errors = []
        for b in range(2):
            sound, moves = (None if a is None else np.asarray(a[b]) for a in (conditions.audio, conditions.motion))
            expected = numpy_dit.forward(
                model.config,
                plain,
                *(np.asarray(arguments[name][b]) for name in ("x", "given", "mask", "t", "position")),
                np.asarray(conditions.text[b]),
                sound,
                moves,
                [
                    tuple(np.asarray(a) for a in (c.k[:, b], c.v[:, b], c.position[b], c.valid[b]))
                    for c in arguments["contexts"]
                ],
                None if conditions.image is None else np.asarray(conditions.image[b]),
            )
            errors += [relative(a, e) for a, e in zip((out[b], k[:, b], v[:, b]), expected)]
        print("against numpy", max(errors))
        assert max(errors) <= 1e-9


def test_every_input_counts():
    model = tiny()
    params, arguments = random_params(model), inputs(model.config, "float32")
    run = jax.jit(lambda arguments: model.apply({"params": params}, **arguments)[0])
    plain = run(arguments)
    conditions, (reference, past) = arguments["conditions"], arguments["contexts"]

    def drive(field, row):
        return dict(conditions=dataclasses.replace(conditions, **{field: getattr(conditions, field).at[row].add(1.0)}))

    def context(**changes):
        return dict(contexts=(reference, dataclasses.replace(past, **changes)))

    changed = {
        "x": dict(x=arguments["x"].at[:, 1].add(0.5)),
        "given": dict(given=arguments["given"].at[:, 1].add(0.5)),
        "mask": dict(mask=arguments["mask"].at[:, 1].set(1 - arguments["mask"][:, 1])),
        "t": dict(t=arguments["t"].at[:, 1].add(-100.0)),
        "position": dict(position=arguments["position"].at[:, 1].add(1)),
        "text": drive("text", (slice(None), 0)),
        "audio": drive("audio", (slice(None), 1)),
        "one sound row": drive("audio", (slice(None), 1, 2)),
        "motion": drive("motion", (slice(None), 1)),
        "one motion row": drive("motion", (slice(None), 1, 0)),
        "reference position": dict(contexts=(dataclasses.replace(reference, position=reference.position + 1), past)),
        "context k": context(k=past.k.at[:, :, 2].add(0.5)),
        "context v": context(v=past.v.at[:, :, 2].add(0.5)),
        "context position": context(position=past.position.at[:, 2].add(-1)),
        "context valid": context(valid=past.valid.at[:, 1].set(True)),
    }
    moved = {name: relative(run({**arguments, **change}), plain) for name, change in changed.items()}
    print({name: round(value, 3) for name, value in moved.items()})
    assert min(moved.values()) >= 0.01, moved
    hidden = context(k=past.k.at[:, :, 1].add(3.0), v=past.v.at[:, :, 1].add(-3.0))
    np.testing.assert_array_equal(run({**arguments, **hidden}), plain)


@pytest.mark.parametrize("changes", [PIXEL_FRAMES | IMAGE, PACKED], ids=["image and pixel frames", "packed sound"])
def test_every_row_of_the_public_adapters_counts(changes):
    model = tiny(**changes)
    params, arguments = random_params(model), inputs(model.config, "float32")
    run = jax.jit(lambda conditions: model.apply({"params": params}, **{**arguments, "conditions": conditions})[0])
    conditions = arguments["conditions"]
    plain, moved = run(conditions), {}
    for row in range(model.config.audio_window[0]):
        louder = conditions.audio.at[:, 1, row, :-1].add(2.0)
        moved[f"sound row {row}"] = relative(run(dataclasses.replace(conditions, audio=louder)), plain)
    for token in range(model.config.image_tokens):
        other = conditions.image.at[:, token].multiply(-1.0)
        moved[f"image token {token}"] = relative(run(dataclasses.replace(conditions, image=other)), plain)
    print({name: round(value, 3) for name, value in moved.items()})
    assert min(moved.values()) >= 0.01


def test_windows_of_pixel_frames():
    """MultiTalk: 5 rows around the first pixel frame, then 8 rows around 4; repeated at the ends."""
    windows = np.asarray(pixel_frame_windows(jnp.arange(9.0)[None, :, None]))[0]
    assert windows.shape == (3, 8, 2)
    np.testing.assert_array_equal(windows[0, :5, 0], [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(windows[1, :, 0], [0, 0, 1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(windows[2, :, 0], [3, 4, 5, 6, 7, 8, 8, 8])
    np.testing.assert_array_equal(windows[:, 0, 1], [1, 0, 0])
    assert not np.any(windows[0, 5:, 0])


def test_windows_of_packed_sound():
    """OmniAvatar: latent frame i >= 1 takes rows 4 i - 3 .. 4 i of the features behind one zero row."""
    features = np.arange(1.0, 7.0)
    windows = np.asarray(packed_windows(jnp.asarray(features)[None, :, None]))[0, :, :, 0]
    behind = np.concatenate([[0.0], features, [0.0, 0.0]])
    np.testing.assert_array_equal(windows[0], 0.0)
    for i in (1, 2):
        np.testing.assert_array_equal(windows[i], behind[4 * i - 3 : 4 * i + 1])
    assert windows.shape == (3, 4)


def test_sound_and_motion_reach_only_their_own_frame_at_first():
    """With one layer, cross-attention comes after self-attention: a row changes nothing but its own latent frame."""
    model = tiny(layers=1)
    params, arguments = random_params(model), inputs(model.config, "float32")
    run = jax.jit(lambda arguments: model.apply({"params": params}, **arguments)[0])
    plain = run(arguments)
    for field in ("audio", "motion"):
        rows = getattr(arguments["conditions"], field).at[:, 1].add(1.0)
        out = run({**arguments, "conditions": dataclasses.replace(arguments["conditions"], **{field: rows})})
        np.testing.assert_array_equal(out[:, 0::2], plain[:, 0::2])
        assert relative(out[:, 1], plain[:, 1]) >= 0.01


def test_undriven_conditions_are_zero_rows():
    text = jnp.ones((2, 2, TINY.text_dim))
    conditions = undriven(TINY, text, 3)
    assert conditions.audio.shape == (2, 3, *TINY.audio_window) and not np.any(conditions.audio)
    assert conditions.motion.shape == (2, 3, *TINY.motion_window) and not np.any(conditions.motion)
    silent = undriven(dataclasses.replace(TINY, **UNDRIVEN), text, 3)
    assert silent.audio is None and silent.motion is None


def test_qk_norm_spans_the_full_width():
    x = np.random.default_rng(0).standard_normal((2, 3, 24)).astype(np.float32) * np.linspace(
        0.1, 4, 24, dtype=np.float32
    )
    weight = np.linspace(-1, 2, 24, dtype=np.float32)
    actual = RMSNorm(1e-6).apply({"params": {"weight": weight}}, x)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt(np.mean(wide**2, -1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(actual, expected, rtol=2e-6)
    halves = wide.reshape(2, 3, 2, 12)
    by_head = halves / np.sqrt(np.mean(halves**2, -1, keepdims=True) + 1e-6)
    assert np.max(np.abs(by_head.reshape(x.shape) * weight - actual)) > 0.1


def test_timestep_features():
    t = np.array([[0.0, 625.0, 1000.0]])
    actual = timestep_features(jnp.asarray(t, jnp.float32), 256)
    angle = t[..., None] * 10_000.0 ** (-np.arange(128) / 128.0)
    np.testing.assert_allclose(actual, np.concatenate([np.cos(angle), np.sin(angle)], -1), atol=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(heads=5), "heads 5"),
        (dict(dim=22, heads=2), "heads 2.*even"),
        (dict(motion_every=3, layers=4), "motion_every 3.*layers 4"),
        (dict(prediction="eps"), "prediction 'eps'"),
        (dict(inputs="rgb"), "inputs 'rgb'"),
        (dict(audio_form="sung"), "audio_form 'sung'"),
        (dict(audio_form="added"), "audio_tokens 2.*1 token"),
    ],
)
def test_invalid_config(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)
