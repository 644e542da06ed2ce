"""Rolling Forcing (arXiv 2509.25161): ODE regression, then DMD, half of the rollouts with the rolling window.

    python -m knotjax train --config=configs/rolling_forcing.py:small --workdir=out/rolling

Sizes: debug, small, 1.3b, 14b. Not yet run.
"""

from knotjax.training.recipes import recipe


def get_config(arg: str = ""):
    """`arg` is a size; without one, small."""
    config = recipe(
        arg,
        method="rolling_forcing",
        plan={},
        frames=27,
        small_frames=21,
        stages=("teacher", "record", "causal", "dmd"),
        kind="ode",
    )
    if config.size in ("1.3b", "14b"):
        config.dmd.generator.rate, config.dmd.critic.rate = 1.5e-6, 4e-7  # its public config
    config.dmd.schedule.plain_share = 0.5  # its public code flips a coin
    return config
