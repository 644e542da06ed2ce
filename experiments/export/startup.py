"""How long the first frame takes, each time in a fresh process:

    python -m experiments.export.startup             # everything, three times; --repeat 1 is quicker
    python -m experiments.export.startup --way artefact   # one way only

Ways: `library` (`Animator.load().stream`) and `artefact` (an exported folder and its loader), both `cold` and `warm`:
with an empty and with a filled persistent compilation cache of jax. Prints medians of the seconds from the start of the
process to each stage, of the processor seconds used until then (which a busy machine changes little), and how often XLA
complained about a cached program; `results.json` keeps all runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("imported", "loaded", "first frame", "second block")
WAYS = ("library", "artefact")
RESULTS = Path(__file__).parent / "results.json"


def library(mark, folder: str) -> None:
    """A stream of the library."""
    import numpy as np

    from knotjax.pipeline import Animator

    mark("imported")
    animator = Animator.load()
    mark("loaded")
    pieces = animator.stream(np.load(f"{folder}/picture.npy"), np.load(f"{folder}/wave.npy"))
    next(pieces)
    mark("first frame")
    next(pieces)
    mark("second block")


def artefact(mark, folder: str) -> None:
    """A stream of the exported folder."""
    sys.path.insert(0, f"{folder}/exported")
    import numpy as np
    from exported import load

    mark("imported")
    model = load(f"{folder}/exported")
    mark("loaded")
    stream = model.start(np.load(f"{folder}/picture.npy"))
    wave = np.load(f"{folder}/wave.npy")
    first = 15 * 640 + 120  # samples that the first block hears
    assert stream.step(wave[:first]).shape[1] == 9
    mark("first frame")
    assert stream.step(wave[first : first + 12 * 640]).shape[1] == 12
    mark("second block")


def child(way: str, folder: str, began: float) -> None:
    """One run; prints seconds since `began` for every stage."""
    found = {}

    def mark(stage):
        found[stage] = round(time.time() - began, 3)
        found[f"{stage}, processor"] = round(time.process_time(), 3)

    globals()[way](mark, folder)
    print(json.dumps(found))


def run(way: str, folder: Path, cache: Path) -> dict:
    """One fresh process: its stages, processor seconds and complaints."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "experiments.export.startup", "--child", way, str(folder), str(time.time())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = done.stderr.splitlines()
    return json.loads(done.stdout.splitlines()[-1]) | {
        "complaints": sum("doesn't match the machine type" in line for line in lines),
        "cache_mib": round(sum(file.stat().st_size for file in cache.iterdir()) / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, action="append")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, folder, began = options.child
        return child(way, folder, float(began))

    import numpy as np

    from knotjax.bundle import SHIPPED
    from knotjax.exporting import folder as exporting
    from knotjax.media import read_picture, read_sound
    from knotjax.pipeline import Animator

    runs = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        animator = Animator.load()
        began = time.perf_counter()
        exporting.write(animator.model, animator.plan(), folder / "exported", method=animator.model.method)
        print(f"exported in {time.perf_counter() - began:.1f} s")
        np.save(folder / "picture.npy", read_picture(SHIPPED.parent / "portrait.png", animator.size))
        np.save(folder / "wave.npy", read_sound(SHIPPED.parent / "hello.wav"))
        for number in range(options.repeat):
            for way in options.way or WAYS:
                cache = folder / f"cache {way} {number}"
                cache.mkdir()
                for state in ("cold", "warm"):
                    facts = run(way, folder, cache)
                    runs.setdefault(f"{way} {state}", []).append(facts)
                    print(way, state, facts, flush=True)
    RESULTS.write_text(
        json.dumps({"processors": os.cpu_count(), "load": os.getloadavg(), "runs": runs}, indent=1) + "\n"
    )
    names = (*STAGES, *(f"{stage}, processor" for stage in STAGES), "complaints", "cache_mib")
    print("| way | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for way, rows in runs.items():
        middle = (f"{statistics.median(row[name] for row in rows):g}" for name in names)
        print(f"| {way} | " + " | ".join(middle) + " |")


if __name__ == "__main__":
    main()
