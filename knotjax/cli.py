"""The `knotjax` command. Heavy libraries load inside the handlers, after the arguments are known to be good."""

import argparse
import importlib
import math
import sys
from pathlib import Path

from knotjax import drive
from knotjax.arguments import Parser
from knotjax.edits import Edit
from knotjax.errors import InputError

ASSETS = Path(__file__).parent / "assets"
STOPPED = 130  # exit status after Ctrl-C or SIGTERM
PASSED_ON = {  # to modules that parse their own options
    "convert": ("knotjax.convert.command", "convert public weights, e.g. knotjax convert SRC DST; --models lists them"),
    "evaluate": ("knotjax.evaluate", "measure quality and stability; its own --help lists the options"),
    "export": (
        "knotjax.exporting.command",
        "write programs and weights that run without knotjax, e.g. knotjax export -o DIR",
    ),
    "serve": ("knotjax.serve.command", "serve a page on which a portrait speaks live; see its own --help"),
    "train": ("knotjax.training.trainer", "train a model, e.g. knotjax train --config=configs/small.py --workdir=DIR"),
}


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0 s")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not in 0 .. {2**32 - 1}")
    return value


def _blocks(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of blocks in 0 .. 1000000")
    return value


def _box(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,WIDTH,HEIGHT in pixels")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="knotjax", description="Talking portrait videos from one picture and one sound file.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    animate = commands.add_parser("animate", help="make a video", description="Make a talking video.")
    animate.add_argument("--image", metavar="FILE", help="portrait, PNG, JPEG or WebP (default: one that comes along)")
    animate.add_argument(
        "--face-box", type=_box, metavar="X,Y,W,H", help="where the face is in the picture (default: searched for)"
    )
    animate.add_argument("--no-crop", action="store_true", help="show the whole picture, with bands beside it")
    animate.add_argument(
        "--audio",
        metavar="FILE",
        help="speech: WAV, FLAC, OGG, MP3, M4A or a video's sound; - reads standard input: WAV, FLAC or mono "
        "16-bit little-endian PCM (default: one that comes along)",
    )
    animate.add_argument(
        "--rate", type=int, default=drive.SAMPLE_RATE, metavar="HZ", help="of PCM on standard input (default: 16000)"
    )
    animate.add_argument("-o", "--output", metavar="FILE.mp4", default="out.mp4", help="default: %(default)s")
    animate.add_argument("--weights", metavar="DIR", help="a trained model (default: the one that comes along)")
    animate.add_argument("--method", help="streaming method (default: the one that the model was trained for)")
    animate.add_argument("--seconds", type=_seconds, metavar="S", help="stop after S seconds (default: all the sound)")
    animate.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: %(default)s")
    animate.add_argument("--emotion", metavar="WORD", help=", ".join(drive.EMOTIONS))
    animate.add_argument("--action", metavar="WORD", help=", ".join(drive.ACTIONS))
    animate.add_argument(
        "--edit",
        action="append",
        default=[],
        metavar='"S WORD [RAMP]"',
        help="another emotion or action from S seconds on, fading in over RAMP seconds; may be given again",
    )
    animate.add_argument(
        "--fps",
        default="25",
        choices=drive.FILE_RATES,
        help="frames per second of the file (default: 25)",
    )
    animate.add_argument(
        "--save-every",
        type=_blocks,
        default=250,
        metavar="N",
        help="save the state every N blocks, so that a killed run can go on; 0 for never (default: %(default)s)",
    )
    animate.add_argument("--resume", action="store_true", help="go on with a killed run, given the same arguments")
    animate.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    for name, (_, text) in PASSED_ON.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _animate(options: argparse.Namespace) -> int:
    try:
        drive.word_ids(options.emotion, options.action)
    except ValueError as error:
        raise InputError(str(error)) from None
    edits = [Edit.parse(text) for text in options.edit]
    image, audio = options.image or ASSETS / "portrait.png", options.audio or ASSETS / "hello.wav"

    from knotjax.media import check_output, check_picture, check_sound, pipe_pieces
    from knotjax.media.samples import check_rate

    # Before the model loads, so that a wrong path is told at once.
    check_output(options.output, options.overwrite)
    check_picture(image)
    if audio == "-":
        if options.resume:
            raise InputError("--resume: needs a sound file, standard input is gone: run without --resume")
        check_rate(options.rate, "--rate")
        audio = pipe_pieces(sys.stdin.buffer.raw, options.rate)
    else:
        check_sound(audio)

    from knotjax.pipeline import Animator

    report = Animator.load(options.weights).animate(
        image,
        audio,
        options.output,
        method=options.method,
        seconds=options.seconds,
        seed=options.seed,
        emotion=options.emotion,
        action=options.action,
        edits=edits,
        face_box=options.face_box,
        crop=not options.no_crop,
        rate=options.rate,
        fps=options.fps,
        save_every=options.save_every,
        resume=options.resume,
        overwrite=options.overwrite,
        progress=True,
    )
    for note in report.notes:
        print(f"knotjax: note: {note}", file=sys.stderr)
    print(report.line())
    if report.stopped:
        print("knotjax: stopped; the video ends there", file=sys.stderr)
    return STOPPED if report.stopped else 0


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for unusable input, 130 when interrupted."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments and arguments[0] in PASSED_ON:  # argparse would refuse options that it does not know
            importlib.import_module(PASSED_ON[arguments[0]][0]).main(arguments[1:])
        else:
            return _animate(_parser().parse_args(arguments))
    except InputError as error:
        print(f"knotjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("knotjax: stopped", file=sys.stderr)
        return STOPPED
    return 0
