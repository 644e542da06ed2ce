"""Self Forcing (arXiv 2506.08009): ODE regression, then DMD with self-rollout.

    python -m knotjax train --config=configs/self_forcing.py:small --workdir=out/self

Sizes: debug, small, 1.3b, 14b. Not yet run.
"""

from knotjax.training.recipes import recipe


def get_config(arg: str = ""):
    """`arg` is a size; without one, small."""
    config = recipe(
        arg,
        method="self_forcing",
        plan={},
        frames=21,
        small_frames=15,
        stages=("teacher", "record", "causal", "dmd"),
        kind="ode",
    )
    return config
