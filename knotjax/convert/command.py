"""knotjax convert: a checkpoint from one set of names to another, without a change to its numbers."""

import argparse
import dataclasses
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from tqdm import tqdm

from knotjax.arguments import Parser
from knotjax.convert.layouts import LAYOUTS, OURS, read, tensors_for
from knotjax.convert.tensors import write_tensors
from knotjax.errors import InputError

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class _Models(argparse.Action):
    """Prints the table of public checkpoints and ends, like --help."""

    def __call__(self, parser, *_):
        from knotjax.checkpoints import table

        print(table())
        parser.exit()


def _parser() -> Parser:
    parser = Parser(prog="knotjax convert", description="Convert a checkpoint; what it is, is found from its tensors.")
    parser.add_argument("source", metavar="SRC", help="file (.safetensors, .pt, .pth) or folder of safetensors files")
    parser.add_argument("target", metavar="DST", help="safetensors file to write")
    names = (OURS, *dict.fromkeys(layout.names for layout in LAYOUTS))
    parser.add_argument("--to", choices=names, default=OURS, help="names of the tensors (default: %(default)s)")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="FILE",
        help="LoRA (alpha 64) or further tensors to lay over SRC; may be given again",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="kind of number (default: as in SRC)")
    parser.add_argument("--models", action=_Models, nargs=0, help="list public checkpoints and end")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing DST")
    return parser


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
      InputError: SRC is not what it should be, or DST cannot be written.
    """
    options = _parser().parse_args(arguments)
    target = Path(options.target)
    if target.suffix != ".safetensors":
        raise InputError(f"{target}: a safetensors file is written: end its name in .safetensors")
    if target.exists() and not options.overwrite:
        raise InputError(f"{target} exists: choose another name or add --overwrite")
    checkpoint = read(options.source, options.adapter, DTYPES.get(options.dtype))
    facts, tensors = tensors_for(checkpoint, options.to)
    about = {"kind": checkpoint.kind, "config": dataclasses.asdict(checkpoint.config)} if options.to == OURS else None
    shown = tqdm(tensors, total=len(facts), unit="tensor", leave=False, disable=not sys.stderr.isatty())
    write_tensors(target, facts, shown, about)
    numbers = sum(int(np.prod(shape, dtype=np.int64)) for _, shape in facts.values())
    print(
        f"{target}: {checkpoint.kind}, {numbers:,} parameters in {len(facts)} tensors, "
        f"{checkpoint.names} names to {options.to}"
    )
