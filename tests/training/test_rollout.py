"""Self-rollout against the plain oracle: the same video, and the gradient of its exit forwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models.dit import Context
from knotjax.streaming.methods import METHODS
from knotjax.training.rollout import Exit, begin, exit_plan, exits, rollout
from tests.helpers import GRID, normal, precision, random_params, relative, tiny
from tests.streaming import plain_oracle
from tests.streaming.plain_oracle import Oracle, network

ROLL = dict(blocks=2, chunk=2, sink=2, history=2, steps=(1000, 500))
TWO = dict(steps=(1000, 500))
ACT = dict(chunk=4, first=3, reference=1, memory=2, recent=1, steps=(1000, 500))
CASES = {  # plan, blocks, exit
    "self_forcing": (METHODS["self_forcing"](chunk=2, history=3), 3, Exit(2)),
    "self_forcing_at_once": (METHODS["self_forcing"](chunk=2, history=3), 3, Exit(0)),
    "knot_forcing": (METHODS["knot_forcing"](start=5, stride=2, steps=(1000, 750, 500)), 3, Exit(1)),
    "knot_convkv": (METHODS["knot_convkv"](chunk=2, window=3, start=5, **TWO), 4, Exit(1)),
    "live_act": (METHODS["live_act"](**ACT), 4, Exit(1)),
    "live_act_at_once": (METHODS["live_act"](**ACT), 4, Exit(0)),
    "causal_forcing": (METHODS["causal_forcing"](chunk=1, count=2, history=2), 3, Exit(1)),
    "avatar_forcing": (METHODS["avatar_forcing"](blocks=3, chunk=2, history=1), 4, Exit(0, 1)),
    "avatar_two_passes": (METHODS["avatar_forcing"](blocks=2, passes=2, chunk=2, history=1), 4, Exit(0, 1)),
    "rolling_forcing": (
        METHODS["rolling_forcing"](**ROLL),
        5,
        Exit(0),
    ),
}


class Recording(Oracle):
    """Keeps what went into the network in every denoising pass, and into the compression of the memory."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.inputs, self.packed, self.compressed = {}, {}, []

    def denoise(self, past, n, number, *rest):
        out = super().denoise(past, n, number, *rest)
        if (n, number) not in self.inputs:  # later replays of this pass write over what it looked at
            self.inputs[n, number] = list(self.last)
            self.packed[n, number] = list(self.compressed)
        return out

    def replay(self, turns):
        self.compressed = []
        return super().replay(turns)

    def compress(self, past, n):
        full = past.remembers.size and past.remembers.all()
        self.compressed = []  # of the last block: keys and values of every set, one after the other
        super().compress(past, n)
        assert not full or len(self.compressed) == 2 * self.sets

    def convolve(self, frames, kernel):
        self.compressed.append(frames)
        return super().convolve(frames, kernel)


class Setting:
    """Random inputs of one case, with the video and its gradient from the oracle."""

    def __init__(self, name, monkeypatch):
        self.plan, self.count, self.exit = CASES[name]
        rng, dtype = np.random.default_rng(3), "float64"
        self.model = tiny(memory_ratio=self.plan.ratio)
        c, k = self.model.config, self.plan.knot.frames
        self.frames = self.count * self.plan.chunk - self.plan.missing
        self.params = random_params(self.model, 5, dtype)
        self.reference = normal(rng, (1, 1, *GRID, c.latent_channels), dtype)
        self.text = normal(rng, (1, 2, c.text_dim), dtype)
        self.drive = {
            "audio": normal(rng, (1, self.frames + k, *c.audio_window), dtype),
            "motion": normal(rng, (1, self.frames + k, *c.motion_window), dtype),
        }
        self.key = jax.random.key(11)
        self.cotangent = normal(rng, (1, self.frames, *GRID, c.latent_channels), dtype)
        self.patch = monkeypatch

    def video(self, params, drive=None):
        state = begin(self.model, self.plan, params, self.reference, self.text, self.key, self.frames, self.exit)
        drive = self.drive if drive is None else drive
        return rollout(self.model, self.plan, params, state, drive, self.text, self.frames, self.exit)

    def expected(self):
        """Video and gradient of <cotangent, video>: one plain forward per block, all it looks at being numbers."""
        plan, keys = exit_plan(self.plan, self.exit), jax.random.split(self.key, 1)
        steps = self.count + plan.blocks - 1
        oracle = Recording(self.model, plan, self.params, self.reference, self.text, keys, steps, self.frames)

        def recorded(*args):
            oracle.last = args[2:]
            return network(*args)

        self.patch.setattr(plain_oracle, "network", recorded)
        turns = []
        for n in range(steps):
            firsts = [oracle.first(n)]
            oracle.step(turns, self.conditions(firsts[0], plan.span))
        self.patch.undo()

        learned = range(self.exit.window, steps, plan.blocks) if plan.blocks > 1 else range(steps)
        passes = len(plan.first_timesteps or plan.timesteps)

        def inner(params):
            total, pieces = 0.0, np.zeros_like(self.cotangent)
            for n in learned:
                first = oracle.first(n)
                number = self.exit.step + 1 + (passes - len(plan.timesteps) if n == 0 else 0)
                x0 = self.forward(oracle, params, n, number)
                if plan.blocks == 1:
                    x0, k = x0[:, : plan.chunk], plan.knot.frames
                    if n and k:
                        fused = plan.knot.weight * turns[n].knot + (1 - plan.knot.weight) * x0[:, :k]
                        x0 = jnp.concatenate([fused, x0[:, k:]], 1)
                low, high = max(first, 0), min(first + x0.shape[1], self.frames)
                part = x0[:, low - first : high - first]
                total = total + jnp.sum(self.cotangent[:, low:high] * part)
                pieces[:, low:high] = jax.lax.stop_gradient(part)
            return total, pieces

        gradient, pieces = jax.grad(inner, has_aux=True)(self.params)
        return pieces, gradient

    def conditions(self, first, span):
        at = np.clip(np.arange(first, first + span), 0, None)
        rows = [np.asarray(self.drive[name]) for name in ("audio", "motion")]
        return plain_oracle.Conditions(self.text, *(a[:, np.minimum(at, a.shape[1] - 1)] for a in rows))

    def forward(self, oracle, params, n, number):
        """The recorded pass again, as a function of the parameters."""
        x, given, mask, t, position, drive, contexts, exists = oracle.inputs[n, number]
        packed = oracle.packed[n, number]
        if packed:  # the memory as a function of its weights
            at = 2 * (number - 1 if oracle.plan.commit == "same_step" else 0)
            block = params["blocks"]["block0"]
            kv = []
            for frames, name in zip(packed[at : at + 2], ("memory_k", "memory_v")):
                layers, batch, count, tokens, *head = frames.shape
                ratio = count // oracle.plan.memory.frames
                parts = frames.reshape(layers, batch, -1, ratio, tokens, self.model.config.dim)
                out = jnp.einsum("lbmrsc,lrc->lbmsc", parts, block[name])
                kv.append(out.reshape(layers, batch, -1, tokens, *head))
            old = contexts[1]
            contexts = (contexts[0], Context(*kv, old.position, old.valid), *contexts[2:])
        out, _ = network(self.model, params, x, given, mask, t, position, drive, contexts, exists)
        at = oracle.first(n) - oracle.number[0]
        window = slice(at, at + oracle.span)
        sigma = jnp.asarray(t)[:, window, None, None, None] / 1000.0
        return x[:, window] - sigma * out[:, window]


DEFAULT = ("knot_forcing", "avatar_forcing")


@pytest.mark.parametrize(
    "name", [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_gradient_is_that_of_the_exit_forwards(name, monkeypatch):
    with precision("float64"):
        s = Setting(name, monkeypatch)
        video, gradient = s.expected()

        @jax.jit
        def ours(params):
            def inner(params):
                video, _ = s.video(params)
                return jnp.sum(s.cotangent * video), video

            return jax.grad(inner, has_aux=True)(params)

        actual, emitted = ours(s.params)
        assert relative(emitted, video) < 1e-9
        errors = jax.tree.map(relative, actual, gradient)
        print(name, "largest relative error of the gradient", max(jax.tree.leaves(errors)))
        assert max(jax.tree.leaves(errors)) < 1e-8
        moved = jax.tree.map(lambda a: float(jnp.abs(a).max()), gradient)
        blocks = moved["blocks"]["block0"]
        assert blocks["q"]["kernel"] > 1e-3 and moved["head"]["kernel"] > 1e-3
        if s.plan.memory.frames:
            assert min(blocks["memory_k"], blocks["memory_v"]) > 1e-4


def test_a_stream_goes_on_where_a_rollout_ended():
    """Two rollouts, the second from the first one's state, are one (LongLive's tuning on streams)."""
    with precision("float64"):
        plan, exit = METHODS["longlive"](chunk=2, window=5, sink=1, **TWO), Exit(1)
        rng, model = np.random.default_rng(0), tiny(audio_tokens=0, audio_window=(0, 0))
        params, reference = random_params(model, 1, "float64"), normal(rng, (1, 1, *GRID, 3), "float64")
        text, motion = normal(rng, (1, 2, 6), "float64"), normal(rng, (1, 8, 2, 4), "float64")
        start = begin(model, plan, params, reference, text, jax.random.key(0), 8, exit)

        def run(state, rows, frames, block=0):
            return jax.jit(lambda s: rollout(model, plan, params, s, {"motion": rows}, text, frames, exit, block))(
                state
            )

        whole, _ = run(start, motion, 8)
        first, state = run(start, motion[:, :4], 4)
        second, _ = run(state, motion[:, 4:], 4, 2)
        assert relative(jnp.concatenate([first, second], 1), whole) < 1e-12
        with pytest.raises(ValueError, match="whole blocks"):
            run(start, motion, 7)
        with pytest.raises(ValueError, match="drive of 4"):
            run(start, motion[:, :4], 6)


def test_exits():
    plan = METHODS["avatar_forcing"](blocks=2, passes=2)
    assert exits(plan) == tuple(Exit(step, window) for step in range(2) for window in range(2))
    assert exits(METHODS["self_forcing"]()) == tuple(Exit(step) for step in range(4))
    assert exit_plan(METHODS["live_act"](), Exit(1)).caches == 2
