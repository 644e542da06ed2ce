"""Wan 2.1 1.3B at its full size on a CPU: a file of random weights, converting and loading it, one forward.

    python -m experiments.full_size.run make DIR       # DIR/wan.safetensors, 2.8 GB, bfloat16, random
    python -m experiments.full_size.run convert DIR    # to DIR/knotjax.safetensors; peak memory
    python -m experiments.full_size.run load DIR       # knotjax.load of both files; peak memory
    python -m experiments.full_size.run forward DIR    # 4 latents with 8 of context at 480 x 832

Each of the last three runs in a process of its own and adds a line to `results.jsonl` beside this file. `forward` takes
`--layers N` to run the first N layers only; all 30 are 38 TFLOP.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NAME = "wan2.1-t2v-1.3b"
GRID = (60, 104)  # latents of 480 x 832 pixels
FRAMES, CONTEXT, TEXT = 4, 8, 512


def make(path: Path) -> dict:
    """Random weights under Wan's own names, tensor by tensor; none is zero."""
    import ml_dtypes
    import numpy as np

    from knotjax.convert import dit
    from knotjax.convert.keymap import places
    from knotjax.convert.tensors import write_tensors
    from knotjax.presets import PRESETS

    config, rng = PRESETS[NAME], np.random.default_rng(0)
    rows = places(dit.table(config, "wan"), dit.shapes(config))
    facts = {name: (np.dtype(ml_dtypes.bfloat16), shape) for row in rows.values() for name, shape in row}

    def draw(name, shape):
        noise = rng.standard_normal(shape, np.float32)
        if "norm" in name and name.endswith("weight"):
            noise = 1 + 0.1 * noise
        elif name.endswith("weight"):
            noise *= np.prod(shape[1:]) ** -0.5
        else:
            noise *= 0.1
        return noise.astype(ml_dtypes.bfloat16)

    write_tensors(path, facts, ((name, draw(name, shape)) for name, (_, shape) in facts.items()))
    return {"bytes": path.stat().st_size}


def convert(source: Path, target: Path) -> dict:
    from knotjax.convert import command

    command.main([str(source), str(target), "--overwrite"])
    return {"bytes": source.stat().st_size}


def load(path: Path) -> dict:
    import jax

    import knotjax

    _, params = knotjax.load(NAME, path)
    for leaf in jax.tree.leaves(params):  # reads what is only mapped so far
        assert jax.numpy.isfinite(leaf[..., ::16].sum())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return {
        "bytes": path.stat().st_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "held": held,
    }


def forward(path: Path, layers: int) -> dict:
    """One forward; weights, latents and context in bfloat16."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    import knotjax
    from knotjax.models.dit import Conditions, Context, DiT

    model, params = knotjax.load(NAME, path)
    params["blocks"] = jax.tree.map(lambda leaf: leaf[:layers], params["blocks"])
    config = dataclasses.replace(model.config, layers=layers)
    rng, tokens = np.random.default_rng(1), GRID[0] * GRID[1] // 4

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32), jnp.bfloat16)

    def times(first, count):
        return jnp.arange(first, first + count, dtype=jnp.int32)[None]

    keys = tuple(normal(layers, 1, CONTEXT, config.heads, tokens, config.head_dim) for _ in "kv")
    context = Context(*keys, times(-CONTEXT, CONTEXT), jnp.ones((1, CONTEXT), bool))
    x, still = normal(1, FRAMES, *GRID, 16), jnp.ones((1, FRAMES), jnp.float32)
    arguments = (x, x, still, 900 * still, times(0, FRAMES), Conditions(normal(1, TEXT, config.text_dim)), (context,))
    began = time.monotonic()
    run = jax.jit(lambda p, a: DiT(config).apply({"params": p}, *a)[0]).lower(params, arguments).compile()
    compiled = time.monotonic()
    out = np.asarray(run(params, arguments), np.float32)
    ended = time.monotonic()
    assert out.shape == x.shape and np.all(np.isfinite(out))
    facts = {"layers": layers, "seconds": round(ended - compiled, 1), "compile seconds": round(compiled - began, 1)}
    return facts | {"temp bytes": run.memory_analysis().temp_size_in_bytes, "deviation": float(out.std())}


def measured(task: str, options) -> None:
    """Run one task in this process and note its peak memory."""
    from knotjax.progress import peak_memory_mib

    folder = options.folder
    source, ours = folder / "wan.safetensors", folder / "knotjax.safetensors"
    facts = {
        "convert": lambda: convert(source, ours),
        "load wan": lambda: load(source),
        "load knotjax": lambda: load(ours),
        "forward": lambda: forward(source, options.layers),
    }[task]()
    facts = {"task": task, **facts, "peak MiB": round(peak_memory_mib())}
    if "bytes" in facts:
        facts["peak over size"] = round(facts["peak MiB"] * 2**20 / facts["bytes"], 3)
    line = json.dumps(facts)
    print(line)
    with open(HERE / "results.jsonl", "a") as log:
        log.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["make", "convert", "load", "forward", "load wan", "load knotjax"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task == "make":
        print(make(options.folder / "wan.safetensors"))
    elif options.here:
        measured(options.task, options)
    else:
        for task in ("load wan", "load knotjax") if options.task == "load" else (options.task,):
            more = ["--here", "--layers", str(options.layers)]
            subprocess.run(
                [sys.executable, "-m", "experiments.full_size.run", task, str(options.folder), *more], check=True
            )


if __name__ == "__main__":
    main()
