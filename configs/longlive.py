"""LongLive (arXiv 2509.22622): Self Forcing's recipe with a short window and a sink.

    python -m knotjax train --config=configs/longlive.py:small --workdir=out/longlive

This is its first stage; its second one (tuning on streams that go on, with LoRA) is not among the stages yet, though
rollouts can go on from a state and `--config.dmd.schedule.rank=256` trains LoRA pairs. Sizes: debug, small, 1.3b, 14b.
Not yet run.
"""

from knotjax.training.recipes import recipe


def get_config(arg: str = ""):
    """`arg` is a size; without one, small."""
    config = recipe(
        arg,
        method="longlive",
        plan={},
        frames=21,
        small_frames=15,
        stages=("teacher", "record", "causal", "dmd"),
        kind="ode",
    )
    if config.size in ("1.3b", "14b"):
        config.dmd.steps = 700  # its public config
    return config
