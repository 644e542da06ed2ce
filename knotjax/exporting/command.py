"""knotjax export: a stream's programs and weights as a folder that runs without knotjax."""

import argparse
import importlib.util
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from knotjax.arguments import Parser
from knotjax.bundle import Bundle
from knotjax.errors import InputError
from knotjax.exporting.folder import KERNELS, LOADER, PLATFORMS, write
from knotjax.models.dit import DiTConfig
from knotjax.pipeline import Animator
from knotjax.streaming.methods import METHODS
from knotjax.streaming.plan import StreamPlan
from knotjax.weights import MANIFEST, load_weights

MAX_BATCH = 1024


def _batch(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_BATCH:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of streams in 1 .. {MAX_BATCH}")
    return value


def _platforms(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= set(PLATFORMS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(PLATFORMS)} with commas between")
    return names


def _parser() -> Parser:
    parser = Parser(
        prog="knotjax export",
        description="Write a stream's programs, weights and a loader into a folder that runs without knotjax.",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--weights", metavar="DIR", help="a trained model (default: the one that comes along)")
    plan = parser.add_mutually_exclusive_group()
    plan.add_argument("--method", help="streaming method (default: the one that the model was trained for)")
    plan.add_argument(
        "--config",
        metavar="FILE.py",
        help="take method and plan from a config of `knotjax train`, such as configs/small.py:debug",
    )
    parser.add_argument(
        "--batch", type=_batch, default=1, metavar="N", help="streams that run side by side (default: %(default)s)"
    )
    parser.add_argument(
        "--platforms",
        type=_platforms,
        default=PLATFORMS,
        metavar="NAME,...",
        help=f"what one program serves (default: {','.join(PLATFORMS)})",
    )
    parser.add_argument(
        "--kernel",
        choices=KERNELS,
        default="xla",
        help="of the attention; splash, for large models, needs --platforms tpu (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an export in DIR")
    return parser


def _configured(text: str, model: Bundle) -> tuple[str, StreamPlan]:
    """Method and plan that a training config names.

    Raises:
      InputError: it cannot be read, or is of a model of other sizes.
    """
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    try:
        values(["knotjax export", f"--config={text}"])
        method, sizes = config.value.method, DiTConfig(**config.value.dit)
        plan = METHODS[method](**config.value.plan)
    except Exception as error:  # a config is a program
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--config {text}: not a config of `knotjax train` ({reason[:200]})") from error
    if sizes != model.dit:
        raise InputError(f"--config {text}: of a model of other sizes: add --weights with the model that it trained")
    return method, plan


def _check_output(folder: Path, overwrite: bool) -> None:
    """Refuse a folder in which something would be lost."""
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: a file: choose another folder")
        if not folder.exists() or not any(folder.iterdir()):
            return
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}): choose another folder") from None
    if not overwrite:
        raise InputError(f"{folder}: exists and is not empty: choose another folder or add --overwrite")
    if (folder / MANIFEST).exists() and "artefact" not in load_weights(folder)[1]:
        raise InputError(f"{folder}: holds a model, not an export: choose another folder")


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
      InputError: the weights or an option cannot be used, or the folder cannot be written.
    """
    options = _parser().parse_args(arguments)
    if not set(options.platforms) <= set(KERNELS[options.kernel]):
        allowed = ",".join(KERNELS[options.kernel])
        raise InputError(f"--kernel {options.kernel}: runs on {allowed} only: add --platforms {allowed}")
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError("export needs flatbuffers: pip install 'knotjax[export]'")
    folder = Path(options.output)
    _check_output(folder, options.overwrite)
    animator = Animator.load(options.weights)
    if options.config:
        method, plan = _configured(options.config, animator.model)
    else:
        method, plan = options.method or animator.model.method, animator.plan(options.method)
    try:
        signature = write(
            animator.model, plan, folder, method=method, batch=options.batch, platforms=options.platforms,
            kernel=options.kernel, progress=sys.stderr.isatty(),
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}): choose another folder") from error
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 2**20
    made = f"{len(signature['programs'])} programs for {', '.join(options.platforms)}, {size:.1f} MiB"
    print(f"{folder}: {method}, {made}; {folder / LOADER} runs them")
