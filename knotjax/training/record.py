"""Writing latents to array_record files, so that training need not render, decode or encode again.

    python -m knotjax.training.record --clips=videos --output=out/latents
    python -m knotjax train --config=configs/knot_forcing.py:small --workdir=out/run --config.records=out/latents

All of `configs` take them. Those that start from nothing need `--config.start=FOLDER`, the model whose codec wrote
them. With `--seeds=N` in place of `--clips` the procedural portraits of seeds 0 .. N - 1 are written.
"""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import grain
import jax
import numpy as np

from knotjax import bundle
from knotjax.arguments import Parser
from knotjax.data import records
from knotjax.data.folder import ClipFolder
from knotjax.drive import FPS, STRIDE
from knotjax.errors import InputError
from knotjax.models import speech
from knotjax.progress import show_log
from knotjax.training import corpus

log = logging.getLogger("knotjax")


def heard(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A real clip with speech features in place of its sound."""
    frames = sample["frames"]
    return {"frames": frames, "speech": speech.speech_rows(sample["wave"], len(frames)).astype(np.float16)}


def from_folder(folder: Path, seconds: float, model: bundle.Bundle, index: Path) -> Iterator[dict[str, np.ndarray]]:
    """Training arrays of every window of the videos in a folder; see `ClipFolder`."""
    length = int(seconds * FPS) // STRIDE * STRIDE
    source = ClipFolder(folder, length / FPS, model.codec.size, index)
    log.info("clips: %d windows, %d files left out", len(source), len(source.broken))
    # Threads decode ahead of the encoder.
    ahead = grain.MapDataset.source(source).map(heard).to_iter_dataset(grain.ReadOptions(4, 8))
    for done, sample in enumerate(ahead, 1):
        yield corpus.encode_clip(sample, model.pixels, model.params["codec"])
        if done % 100 == 0:
            log.info("encoded %d of %d windows", done, len(source))


def from_seeds(seeds: int, seconds: float, model: bundle.Bundle, folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Training arrays of procedural portraits, which are rendered into `folder`."""
    yield from corpus.encode(corpus.render(folder, seeds, seconds), model.pixels, model.params["codec"])


def main(argv: list[str] | None = None) -> int:
    """Entry of the command; returns the exit status."""
    parser = Parser(prog="python -m knotjax.training.record", description="Write latents to array_record files.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--clips", metavar="FOLDER", help="folder of videos with sound")
    source.add_argument("--seeds", type=int, metavar="N", help="procedural portraits of seeds 0 .. N - 1")
    parser.add_argument("--weights", metavar="FOLDER", help="model whose codec encodes (default: the one shipped)")
    parser.add_argument("--seconds", type=float, default=4.8, help="length of a sample (default: %(default)s)")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    show_log()
    try:
        options = parser.parse_args(argv)
        output = Path(options.output)
        if not options.seconds * FPS >= STRIDE:
            raise InputError(f"--seconds {options.seconds}: a sample needs {STRIDE / FPS} seconds or more")
        model = bundle.load(options.weights)
        output.mkdir(parents=True, exist_ok=True)
        if options.clips:
            samples = from_folder(Path(options.clips), options.seconds, model, output / "clips.json")
        else:
            samples = from_seeds(options.seeds, options.seconds, model, output / "rendered")
        with jax.default_device(jax.local_devices()[0]):
            count = records.write(output, samples, made_by=corpus.codec_sum(model.params["codec"]))
    except InputError as error:
        print(f"knotjax: {error}", file=sys.stderr)
        return 2
    print(f"{count} samples in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
