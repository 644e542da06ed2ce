"""What the configs of the papers' training paths have in common.

Sizes: `debug` (tiny, two steps a stage: three minutes of compilation on two CPU cores), `small` (from the model that
comes with knotjax, on procedural portraits), `1.3b` and `14b` (the published recipe). In comments, SF is Self Forcing
(arXiv 2506.08009, public configs).
"""

import ml_collections

from knotjax import bundle

SIZES = ("debug", "small", "1.3b", "14b")
WAN = {
    "1.3b": dict(dim=1536, ffn_dim=8960, heads=12, layers=30),
    "14b": dict(dim=5120, ffn_dim=13824, heads=40, layers=40),
}
TINY = dict(
    latent_channels=96, dim=32, ffn_dim=64, heads=4, layers=2, freq_dim=32, text_dim=16, audio_tokens=2, audio_width=16,
    audio_hidden=16, audio_window=(8, 160), motion_tokens=2, motion_window=(4, 15), motion_every=2, prediction="x0",
    given_residual=True,
)  # fmt: skip


def recipe(arg: str, *, method: str, plan: dict, frames: int, small_frames: int, stages, kind: str):
    """A config with the published numbers of Self Forcing, which a paper's own config then changes.

    Args:
      arg: one of `SIZES`; empty: small.
      method: name in `streaming.methods.METHODS`.
      plan: its arguments, but for what the small model was trained with.
      frames: latent frames of a training clip, whole blocks, without the knot's; `small_frames` for debug and small.
      stages: names of stages, in order.
      kind: objective of the stage `causal`.

    Raises:
      ValueError: no such size.
    """
    arg = arg or "small"
    if arg not in SIZES:
        raise ValueError(f"{method}:{arg}: unknown size, use one of {', '.join(SIZES)}")
    little = arg in ("debug", "small")
    config = ml_collections.ConfigDict()
    config.size, config.seed = arg, 0
    config.start = str(bundle.SHIPPED) if arg == "small" else ""  # model folder that the run starts from
    config.corpus = ""  # folder of rendered clips; empty: workdir/corpus
    config.records = ""  # folder of encoded clips (`python -m knotjax.training.record`) to train on instead
    config.clips, config.seconds = 1000, 4.8
    config.codec = None
    config.dit = ml_collections.ConfigDict(TINY if little else WAN[arg])
    config.method = method
    config.plan = ml_collections.ConfigDict(plan | (dict(shift=3.0, given_reference=True) if little else {}))
    config.stages = tuple(stages)
    config.drop = dict(audio=0.05, all_motion=0.4, some_motion=0.3, words=0.3)
    config.log_every, config.save_every = 20, 500

    length = small_frames if little else frames
    config.teacher = ml_collections.ConfigDict()
    config.teacher.frames, config.teacher.batch, config.teacher.ema = length, 64, 0.999  # ours
    config.teacher.steps = 5000  # ours: no paper gives it
    config.teacher.optimiser = dict(rate=1e-5, b1=0.9, only=())  # ours; `only`: modules that learn, () is all
    config.teacher.objective = dict(shift=5.0, bell=True, floor=0.0, mouth=0.0)  # SF's flow trainers; shares: defaults
    config.teacher.channel_floor = 1.0

    config.causal = ml_collections.ConfigDict()
    config.causal.kind, config.causal.from_teacher = kind, True
    config.causal.frames, config.causal.batch, config.causal.ema = length, 64, 0.99
    config.causal.steps = (
        3000  # SF, CausVid: 3,000 of ODE regression; Causal Forcing: at least 2,000 of teacher forcing
    )
    config.causal.optimiser = dict(rate=2e-6, b1=0.9, only=())  # CausVid, SF
    config.causal.channel_floor = 0.2  # of stream_flow, as in configs/small.py
    config.causal.stream_flow = dict(shift=5.0)  # numbers of every kind of objective
    config.causal.forced = dict(shift=5.0)
    config.causal.ode = dict(levels="chunk")  # SF, CausVid
    config.causal.consistency = dict(count=48, shift=5.0, guidance=dict(scale=2.0))  # Causal Forcing: a scale of 3

    config.record = ml_collections.ConfigDict()
    config.record.frames, config.record.batch, config.record.samples = length, 8, 1500  # CausVid: 1.5k pairs
    config.record.count, config.record.keep, config.record.shift = 48, (0, 12, 24, 36, 48), 8.0  # SF
    config.record.guidance = dict(scale=5.0)  # SF: a guidance scale of 6, in the form cond + g (cond - uncond)

    config.dmd = ml_collections.ConfigDict()
    config.dmd.frames, config.dmd.batch = length, 64  # SF: 21 frames, 64 GPUs with one clip each
    config.dmd.steps = 600  # SF: critic updates; a fifth as many of the student
    config.dmd.generator = dict(rate=2e-6)  # SF; Adam with (0, .999), weight decay .01, clipping at 10: the defaults
    config.dmd.critic = dict(rate=4e-7)  # SF
    config.dmd.schedule = dict(every=5, ema=0.99, ema_start=40, rank=0)  # SF: the average starts at step 200
    config.dmd.objective = dict(shift=5.0, guidance=dict(scale=3.0))  # SF

    if little:
        # Ours, for 6 M parameters; the shift is that of the small model.
        config.clips = 2400
        config.drop = dict(audio=0.05, all_motion=0.15, some_motion=0.15, words=0.3)
        adapted = dict(rate=1e-3, muon=5e-3, warmup=50, b2=0.98, only=())
        config.teacher.steps, config.causal.steps = 2500, 1000
        config.teacher.optimiser = dict(steps=2500, cooldown=0.6, **adapted)
        config.causal.optimiser = dict(steps=1000, cooldown=0.7, **adapted)
        config.teacher.objective = dict(shift=3.0, bell=False, floor=0.3, mouth=3.0)
        config.teacher.channel_floor = 0.2
        config.causal.ema = 0.995
        config.record.samples, config.record.shift, config.record.guidance = 400, 3.0, dict(scale=0.0)
        config.dmd.steps, config.dmd.batch = 650, 8  # 130 of the student
        config.dmd.generator, config.dmd.critic = dict(rate=3e-5, warmup=20), dict(rate=1e-4, warmup=100)
        config.dmd.schedule.update(dict(ema=0.99, ema_start=40))
        config.dmd.objective = dict(shift=3.0, floor=0.3, guidance=dict(scale=0.0))
        config.causal.stream_flow = dict(shift=3.0, mouth=3.0)
        config.causal.forced = dict(shift=3.0, bell=False, floor=0.3)
        config.causal.consistency.update(dict(shift=3.0, guidance=dict(scale=0.0)))
    if arg == "debug":
        config.clips, config.seconds, config.log_every, config.save_every = 2, 4.0, 1, 2
        config.codec = ml_collections.ConfigDict()
        config.codec.model = dict(size=128, patch=16, channels=96, widths=(16, 16, 16))
        config.codec.update(dict(pairs=8, moving=48, attention=0.5, whitening=0.5, noise=0.15, mouth=4.0, batch=2))
        config.codec.optimiser = dict(steps=2, rate=1e-3, warmup=1, cooldown=0.5, b2=0.99)
        config.codec.ema = 0.99
        for section in (config.teacher, config.causal, config.dmd):
            section.steps = section.batch = 2
        config.teacher.optimiser.update(dict(steps=2, warmup=1))
        config.causal.optimiser.update(dict(steps=2, warmup=1))
        config.dmd.schedule.every = 2
        config.record.samples = config.record.batch = 2
        config.record.count, config.record.keep = 4, (0, 2, 4)
    return config
