"""Properties of the compiled step: memory, compilation, independence of streams, and the moving reference."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.models import rope
from knotjax.models.dit import Context, undriven
from knotjax.streaming import anchor, cache
from knotjax.streaming.methods import knot_forcing
from knotjax.streaming.state import ring_valid
from knotjax.streaming.step import jit_init, jit_step
from tests.helpers import GRID, normal, precision, random_conditions, random_params, relative, tiny

MODEL = tiny(layers=1)
PLAN = dataclasses.replace(knot_forcing(window=8), timesteps=(1000.0, 500.0))


def inputs(batch, seed=0, dtype="float32"):
    """Parameters, reference, drive and keys of a batch of streams."""
    rng = np.random.default_rng(seed)
    reference = normal(rng, (batch, 1, *GRID, MODEL.config.latent_channels), dtype)
    drive = random_conditions(MODEL.config, rng, batch, PLAN.span, dtype)
    return random_params(MODEL, 1, dtype), reference, drive, jax.random.split(jax.random.key(seed), batch)


def start(params, reference, drive, keys):
    return jit_init(MODEL, PLAN, params, *jax.tree.map(jnp.copy, (reference, drive.text, keys)))


def pointers(state):
    """Address of every buffer that can be large."""
    leaves = [state.reference, *jax.tree.leaves((state.anchor, state.ring)), state.knot]
    return [leaf.unsafe_buffer_pointer() for leaf in leaves]


def layout(state):
    return [(leaf.shape, leaf.dtype, leaf.nbytes) for leaf in jax.tree.leaves(state)]


def test_sixty_steps_compile_once_in_constant_memory():
    params, reference, drive, keys = inputs(1)
    state = start(params, reference, drive, keys)
    before = layout(state)
    compiled = jit_step._cache_size()
    emitted = []
    for _ in range(60):
        state, block = jit_step(MODEL, PLAN, params, state, drive)
        emitted.append(np.asarray(block))
        assert layout(state) == before
        assert jit_step._cache_size() == compiled + 1
    assert state.block.tolist() == [60]
    assert np.all(np.isfinite(emitted)) and emitted[0].shape == (1, PLAN.chunk, *GRID, MODEL.config.latent_channels)
    assert min(relative(a, b) for a, b in itertools.pairwise(emitted)) > 0.1, "every block has noise of its own"


def test_the_state_is_updated_in_place():
    params, reference, drive, keys = inputs(1)
    state = start(params, reference, drive, keys)
    analysis = jit_step.lower(MODEL, PLAN, params, state, drive).compile().memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print("state bytes", size, "aliased bytes", analysis.alias_size_in_bytes)
    assert analysis.alias_size_in_bytes >= size
    before, old = pointers(state), state
    state, _ = jit_step(MODEL, PLAN, params, state, drive)
    assert sorted(pointers(state)) == sorted(before)
    assert old.ring.k.is_deleted() and old.knot.is_deleted()


def test_what_the_caller_passed_to_init_survives_the_steps():
    params, reference, drive, keys = inputs(1)
    state = jit_init(MODEL, PLAN, params, reference, drive.text, keys)
    jit_step(MODEL, PLAN, params, state, drive)
    assert not reference.is_deleted() and not keys.is_deleted() and not drive.text.is_deleted()
    again = jit_init(MODEL, PLAN, params, reference, drive.text, keys)
    np.testing.assert_array_equal(again.reference, reference)


def test_a_stream_does_not_depend_on_its_neighbours():
    params, reference, drive, keys = inputs(2)
    other_reference, other_drive, other_keys = inputs(2, seed=9)[1:]

    def mix(mine, theirs):
        return jnp.concatenate([mine[:1], theirs[1:]])

    def run(reference, drive, keys):
        state, blocks = start(params, reference, drive, keys), []
        for _ in range(3):
            state, block = jit_step(MODEL, PLAN, params, state, drive)
            blocks.append(np.asarray(block[:1]))
        return np.concatenate(blocks, 1)

    together = run(reference, drive, keys)
    mixed = run(mix(reference, other_reference), jax.tree.map(mix, drive, other_drive), mix(keys, other_keys))
    alone = run(reference[:1], jax.tree.map(lambda a: a[:1], drive), keys[:1])
    np.testing.assert_array_equal(together, mixed)
    print("alone against in a batch:", relative(alone, together))
    assert relative(alone, together) <= 1e-5
    other_key = run(reference, drive, other_keys)
    assert relative(other_key, together) >= 0.1


def test_slots_without_a_frame_are_never_seen():
    """L = 8 and c = 3: six slots, five of which count; the first blocks have fewer."""
    params, reference, drive, keys = inputs(1)
    for blocks in range(4):
        state = start(params, reference, drive, keys)
        for _ in range(blocks):
            state, _ = jit_step(MODEL, PLAN, params, state, drive)
        held = ring_valid(PLAN, state, PLAN.history)[0]
        assert int(jnp.sum(held)) == min(5, 3 * blocks)

        def spoil(ring, where):
            at = where[None, None, None, :, None, None, None]
            return cache.KeyValues(jnp.where(at, 9.0, ring.k), jnp.where(at, -9.0, ring.v))

        clean, dirty, wrong = (jax.tree.map(jnp.copy, state) for _ in range(3))
        dirty = dataclasses.replace(dirty, ring=spoil(dirty.ring, ~held))
        wrong = dataclasses.replace(wrong, ring=spoil(wrong.ring, held))
        outputs = [np.asarray(jit_step(MODEL, PLAN, params, s, drive)[1]) for s in (clean, dirty, wrong)]
        np.testing.assert_array_equal(outputs[0], outputs[1])
        if blocks:
            assert relative(outputs[2], outputs[0]) >= 0.01


def test_turning_the_reference_equals_encoding_it_where_it_stands():
    with precision("float64") as dtype:
        params, reference, drive, keys = inputs(1, dtype=dtype)
        state = start(params, reference, drive, keys)
        stored = jax.tree.map(np.asarray, state.anchor)
        zero = jnp.zeros((1, 1), dtype)
        conditions = undriven(MODEL.config, drive.text, 1)
        columns = GRID[0] // MODEL.config.patch, GRID[1] // MODEL.config.patch

        @jax.jit
        def encode(n):
            return MODEL.apply({"params": params}, reference, reference, zero, zero, n, conditions)[1]

        def turned(k, n):
            return rope.rotate(k, rope.angles(n, columns, MODEL.config.head_dim, dtype))

        errors, outputs = [], []
        for _ in range(4):
            first = int(state.block[0]) * PLAN.chunk
            n = jnp.full((1, 1), first + int(anchor.ahead(PLAN.anchor, first, PLAN.span)), jnp.int32)
            k, v = encode(n)
            errors += [relative(turned(stored.k[0, 0], n), turned(k[0], n)), relative(stored.v[0], v)]
            copy = dataclasses.replace(jax.tree.map(jnp.copy, state), anchor=cache.KeyValues(k[:, None], v[:, None]))
            _, encoded = jit_step(MODEL, PLAN, params, copy, drive)
            state, kept = jit_step(MODEL, PLAN, params, state, drive)
            outputs.append(relative(kept, encoded))
        print("keys and values", max(errors), "blocks", max(outputs))
        assert max(errors + outputs) <= 1e-9


def test_a_common_offset_of_all_positions_changes_nothing():
    """Positions relative to the block and absolute positions are the same thing to the network."""
    with precision("float64") as dtype:
        params, reference, drive, _ = inputs(1, dtype=dtype)
        rng = np.random.default_rng(4)
        c = MODEL.config
        x, given = (normal(rng, (1, PLAN.span, *GRID, c.latent_channels), dtype) for _ in range(2))
        k, v = (normal(rng, (c.layers, 1, 2, c.heads, 4, c.head_dim), dtype) for _ in range(2))
        t = jnp.full((1, PLAN.span), 500.0, dtype)

        @jax.jit
        def forward(own, past):
            context = Context(k, v, past, jnp.ones((1, 2), bool))
            return MODEL.apply({"params": params}, x, given, t / 1000.0, t, own, drive, (context,))[0]

        own, past = jnp.arange(PLAN.span, dtype=jnp.int32)[None], jnp.array([[-2, 6]], jnp.int32)
        plain = forward(own, past)
        errors = [relative(forward(own + shift, past + shift), plain) for shift in (1, 777, 100_000)]
        print("common offset", errors)
        assert max(errors) <= 1e-9
        assert relative(forward(own, past + 1), plain) >= 0.01
