"""Writes `tests/golden/dit.npz`: tiny DiTs of diffusers and their outputs.

    python -m tests.parity.make_golden_dit

Needs torch and diffusers (written with torch 2.13.0 and diffusers 0.42.1). The test that reads the file needs neither.
"""

import numpy as np

from tests.models.dits import GOLDEN, TINY, random_inputs
from tests.parity import torch_dit as twins


def main() -> None:
    arrays = {}
    for name, config in TINY.items():
        twin = twins.build(config)
        arrays |= {f"{name}/weight/{key}": tensor for key, tensor in twins.fill(twin, 0).items()}
        arrays[f"{name}/out"] = twins.forward(twin, config, random_inputs(config, 0))
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
