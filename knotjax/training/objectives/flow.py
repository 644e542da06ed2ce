"""Flow matching in the geometry of the stream, all chunks at once."""

import dataclasses

import jax
import jax.numpy as jnp

from knotjax.models.dit import Conditions, Context, DiT
from knotjax.streaming import passes
from knotjax.streaming.noise import add_noise
from knotjax.streaming.plan import StreamPlan


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """The corruptions and noise levels of `stream_flow`."""

    shift: float = 3.0  # of the noise level, drawn uniformly before the shift
    floor: float = 0.1  # the squared error is divided by (floor + sigma)
    history_noise: float = 0.25  # largest noise level hidden in committed frames and knots
    clean_history: float = 0.3  # share of samples whose history is left clean
    drop_history: float = 0.1  # share of later chunks that see no history
    drop_knot: float = 0.2  # share of later chunks that get no knot
    mouth: float = 0.0  # how much more the errors of latents at the mouth count
    max_lead: int = 8  # the reference stands 1 .. max_lead frames ahead of the last denoised one


def stream_flow(model: DiT, plan: StreamPlan, config: FlowConfig, params, batch, text, key, weight=1.0):
    """Flow matching in the geometry of the stream: every chunk is denoised against the caches that a stream would hold.

    The chunks before it are committed through the same passes as in `stream_step` (clean, at t = 0, with their own
    reference position), so keys and values of the history are trained to be useful; teacher forcing, in that the
    history is the true one.

    Args:
      batch: latents [B, F, h, w, z] with F = chunks * plan.chunk + plan.knot.frames, mouth bool [B, F, h, w] (latents
        at the mouth), reference [B, 1, h, w, z], audio [B, F, P, C], motion [B, F, P, C]; plan.history must equal
        plan.chunk.
      text: [B, T, text_dim].
      key: a random key.
      weight: [z], how much the squared error of each latent channel counts; about 1 on average.

    Returns:
      The loss and a dict of scalars.
    """
    if plan.history != plan.chunk:
        raise ValueError(f"history {plan.history}: this objective needs a history of one chunk ({plan.chunk} frames)")
    latents, reference = batch["latents"], batch["reference"]
    size, total = latents.shape[:2]
    c, span, k = plan.chunk, plan.span, plan.knot.frames
    chunks = (total - k) // c
    keys = iter(jax.random.split(key, 10))

    def uniform(shape, low=0.0, high=1.0):
        return jax.random.uniform(next(keys), shape, minval=low, maxval=high)

    # Hidden corruption of what a stream would have generated itself.
    level = 1000.0 * config.history_noise * uniform((size, 1)) * (uniform((size, 1)) >= config.clean_history)
    seen = add_noise(latents, jax.random.normal(next(keys), latents.shape), jnp.broadcast_to(level, (size, total)))
    lead = jax.random.randint(next(keys), (size, chunks), 1, config.max_lead + 1) + span - 1  # [B, chunks]

    anchor_k, anchor_v = passes.anchor_pass(model, params, reference, text)
    always = jnp.ones((size, 1), bool)

    def window(array, start, frames):
        return jax.lax.slice_in_dim(array, start, start + frames, axis=1)

    def conditions(start, frames):
        return Conditions(text, window(batch["audio"], start, frames), window(batch["motion"], start, frames))

    # Commit all chunks but the last, in order, as a stream does.
    back = jnp.broadcast_to(jnp.arange(-c, 0, dtype=jnp.int32), (size, c))
    here = jnp.broadcast_to(jnp.arange(c, dtype=jnp.int32), (size, c))
    committed = []
    for i in range(chunks - 1):
        contexts = (Context(anchor_k, anchor_v, lead[:, i : i + 1], always),)
        if committed:
            contexts += (Context(*committed[-1], back, jnp.ones((size, c), bool)),)
        frames = window(seen, i * c, c)
        heard = conditions(i * c, c)
        committed.append(passes.commit_pass(model, plan, params, frames, reference, here, heard, contexts))

    # Denoise all chunks at once, each against its own history: rows are samples x chunks.
    def rows(array):  # [B, chunks, ...] -> [B * chunks, ...]
        return array.reshape(size * chunks, *array.shape[2:])

    def spread(array):  # [B, ...] -> [B * chunks, ...]
        return jnp.repeat(array, chunks, axis=0)

    def chunked(array):  # [B, F, ...] -> [B * chunks, span, ...]
        return rows(jnp.stack([window(array, i * c, span) for i in range(chunks)], 1))

    def history(index):  # [L, B, c, N, S, D] of every chunk's past -> [L, B * chunks, c, N, S, D]
        past = [jnp.zeros_like(committed[0][index])] + [pair[index] for pair in committed]
        stacked = jnp.stack(past, 2)  # [L, B, chunks, c, N, S, D]
        return stacked.reshape(stacked.shape[0], size * chunks, *stacked.shape[3:])

    later = jnp.arange(chunks) > 0
    has_past = rows(later & (uniform((size, chunks)) >= config.drop_history))
    has_knot = rows(later & (uniform((size, chunks)) >= config.drop_knot))
    contexts = (
        Context(jnp.repeat(anchor_k, chunks, 1), jnp.repeat(anchor_v, chunks, 1), rows(lead)[:, None], spread(always)),
        Context(history(0), history(1), spread(back), jnp.broadcast_to(has_past[:, None], (size * chunks, c))),
    )
    u = uniform((size * chunks, 1))
    sigma = config.shift * u / (1.0 + (config.shift - 1.0) * u)
    t = jnp.broadcast_to(1000.0 * sigma, (size * chunks, span))
    target = chunked(latents)
    x = add_noise(target, jax.random.normal(next(keys), target.shape), t)
    drive = Conditions(spread(text), chunked(batch["audio"]), chunked(batch["motion"]))
    position = jnp.broadcast_to(jnp.arange(span, dtype=jnp.int32), t.shape)
    knot = chunked(seen)[:, :k]
    x0, _ = passes.denoise_pass(model, plan, params, x, t, spread(reference), knot, has_knot, position, drive, contexts)
    square = weight * jnp.square(x0 - target)
    error = jnp.mean(square, (1, 2, 3, 4))
    place = (1.0 + config.mouth * chunked(batch["mouth"]))[..., None]  # [B * chunks, span, h, w, 1]
    loss = jnp.mean(jnp.mean(place * square, (1, 2, 3, 4)) / (config.floor + sigma[:, 0]))
    still = jnp.mean(weight * jnp.square(spread(reference) - target))
    return loss, {"loss": loss, "error": jnp.mean(error), "still": still}
