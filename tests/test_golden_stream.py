"""The shipped model makes the frames that it made when its golden file was written, on every Python and JAX."""

import numpy as np

from tests import make_golden_stream as golden

TOLERANCE = (
    2  # of 255, for the mean of 8 x 8 pixels; another CPU or XLA rounds differently, a changed model differs more
)
REMAKE = "python -m tests.make_golden_stream"


def test_golden_stream():
    with np.load(golden.PATH) as stored:
        frames, weights = stored["frames"].astype(int), str(stored["weights"])
    assert weights == golden.weights_name(), f"the shipped weights are others now: {REMAKE}"
    made = golden.fingerprint(golden.first_frames()).astype(int)
    worst, moved = np.abs(made - frames).max(), np.abs(np.diff(frames, axis=0)).max()
    print(f"golden stream: worst difference {worst} of 255; from frame to frame it moves by up to {moved}")
    assert moved > 5 * TOLERANCE, "the golden frames stand still: the comparison could not fail"
    assert made.shape == (100, 16, 16, 3) and worst <= TOLERANCE
