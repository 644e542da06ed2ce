"""AvatarForcing (arXiv 2603.14331): ODE regression, then DMD with mixed-window gradients.

    python -m knotjax train --config=configs/avatar_forcing.py:small --workdir=out/avatar

{L, N} = {4, 1}, blocks of four. Which windows get gradients is Rolling Forcing's rule, and that whole windows at their
own levels are regressed is ours (the paper does not say). Sizes: debug, small, 1.3b, 14b. `small` was run on two CPU
cores with fewer steps and smaller batches: command and figures in `experiments/distill`. The others not yet.
"""

from knotjax.training.recipes import recipe


def get_config(arg: str = ""):
    """`arg` is a size; without one, small."""
    config = recipe(
        arg,
        method="avatar_forcing",
        plan=dict(blocks=4, passes=1, chunk=4),
        frames=28,  # seven blocks; ours, near Rolling Forcing's 27
        small_frames=20,
        stages=("teacher", "record", "causal", "dmd"),
        kind="ode",
    )
    if config.size in ("1.3b", "14b"):
        config.record.samples, config.causal.steps = 16_000, 4800  # the paper
        config.dmd.steps = 2500  # the paper
        config.dmd.generator.rate, config.dmd.critic.rate = 1.5e-6, 4e-7  # its public config
        config.dmd.objective.guidance.scale = 4.5  # its public config
    # Points of the trajectories are the window's levels: t = 1000, 800, 400, 200 before the shift, which is the plan's.
    config.record.count, config.record.keep = 50, (0, 10, 30, 40, 50)
    config.record.shift = config.plan.get("shift", 5.0)
    config.causal.ode.levels = "plan"
    config.dmd.schedule.plain_share = 0.5 if config.size in ("1.3b", "14b") else 0.0  # Rolling Forcing; ours
    return config
