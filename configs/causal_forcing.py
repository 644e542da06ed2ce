"""Causal Forcing: an autoregressive teacher, causal consistency distillation from it, then DMD.

    python -m knotjax train --config=configs/causal_forcing.py:small --workdir=out/causal

`--config.plan.count=1` gives the one-step student (AvatarForcing's baseline "causal ODE"), which runs all four steps
on its first chunk. Here the stage `teacher` is bidirectional, as for the other systems, and its weights serve the
consistency distillation as the teacher that looks at the past alone; public code trains one for that by teacher forcing
(`--config.causal.kind=teacher_forcing` does, as a run of its own).

Sizes: debug, small, 1.3b, 14b. Not yet run.
"""

from knotjax.training.recipes import recipe


def get_config(arg: str = ""):
    """`arg` is a size; without one, small."""
    config = recipe(
        arg,
        method="causal_forcing",
        plan=dict(count=4),
        frames=21,
        small_frames=15,
        stages=("teacher", "causal", "dmd"),
        kind="consistency",
    )
    if config.size in ("1.3b", "14b"):
        config.causal.steps = 1000  # its public config: at least 1,000
        config.dmd.steps = 750  # its public config
    return config
