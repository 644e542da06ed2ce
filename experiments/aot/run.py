"""Compile the 1.3B streaming step and the codecs for accelerators that are not there, and write the table.

    python -m experiments.aot.run                      # everything; half a minute to three minutes of CPU a program
    python -m experiments.aot.run --target v5e --method knot_forcing --size 480x832
    python -m experiments.aot.run --table              # results.jsonl as the table of README.md

Every program adds one line to `results.jsonl`; what stands there already is not compiled again.
"""

import argparse
import json
import time
from pathlib import Path

from experiments.aot.programs import RESOLUTIONS, TARGETS, compiled, decode, facts, streaming_step

RESULTS = Path(__file__).parent / "results.jsonl"
STEPS = ("knot_forcing", "self_forcing", "live_act", "avatar_forcing", "rolling_forcing", "longlive")
CODECS = ("wan_vae", "taehv")


def read() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table() -> str:
    """Peak memory per target and, in brackets, what of it is working space; GiB."""
    found = {(row["program"], row["size"], row["target"]): row for row in read()}
    lines = [("program", "size", "weights", "state", *(f"{name}, {t.memory:g} GiB" for name, t in TARGETS.items()))]
    lines.append(("---",) * len(lines[0]))
    for program in (*STEPS, *CODECS):
        for size in RESOLUTIONS:
            rows = [found.get((program, size, target)) for target in TARGETS]
            first = next(filter(None, rows), None)
            if first:
                cells = (f"{row['peak']:.1f} ({row['temp']:.1f})" if row else "" for row in rows)
                lines.append((program, size, f"{first['weights']:.2f}", f"{first['state']:.2f}", *cells))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--size", choices=RESOLUTIONS, action="append")
    parser.add_argument("--method", choices=(*STEPS, *CODECS), action="append")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    done = {(row["program"], row["size"], row["target"]) for row in read()}
    for program in options.method or (*STEPS, *CODECS):
        for size in options.size or RESOLUTIONS:
            for name in options.target or TARGETS:
                if (program, size, name) in done:
                    continue
                target = TARGETS[name]
                make = streaming_step if program in STEPS else decode
                function, shapes = make(target, RESOLUTIONS[size], program)
                began = time.monotonic()
                executable = compiled(function, shapes, target)
                row = {"program": program, "size": size, "target": name, **facts(executable, shapes)}
                row |= {"memory": target.memory, "compile s": round(time.monotonic() - began)}
                print(json.dumps(row), flush=True)
                with open(RESULTS, "a") as log:
                    log.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
