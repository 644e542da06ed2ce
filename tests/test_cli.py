import io
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import knotjax
from knotjax import cli, progress
from knotjax.edits import Edit
from knotjax.errors import InputError

ENV = os.environ | {"PYTHONPATH": str(Path(knotjax.__file__).parents[1])}  # for child processes in other folders


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A usable picture and sound in an otherwise empty working folder."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (90, 120, 150)).save("face.png")
    soundfile.write("hello.wav", np.zeros(1600, np.float32), 16_000)
    return tmp_path


def stand_in(monkeypatch, name: str, **attributes) -> None:
    """Put a module in the place of one that needs a model; the command must call it as agreed."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    package, _, leaf = name.rpartition(".")
    monkeypatch.setattr(sys.modules.get(package) or __import__(package, fromlist=["_"]), leaf, module, raising=False)


@pytest.fixture
def animator(monkeypatch):
    """Records the arguments of every `Animator` call."""
    calls = []

    class Animator:
        @classmethod
        def load(cls, weights=None):
            calls.append(("load", weights))
            return cls()

        def animate(self, image, audio, output, **options):
            calls.append((image, audio, output, options))
            return types.SimpleNamespace(line=lambda: "7 frames", notes=("a hard portrait",), stopped=False)

    stand_in(monkeypatch, "knotjax.pipeline", Animator=Animator)
    return calls


MORE = ["--face-box", "1,2,30.5,40", "--no-crop", "--rate", "8000", "--fps", "29.97", "--save-every", "7", "--resume"]


def test_animate_passes_everything_on(files, animator, capsys):
    words = "animate --image face.png --audio hello.wav -o new.mp4 --weights mine --method plain --seconds 2.5 --seed 7"
    assert (
        cli.main([*words.split(), "--emotion", "happy", "--action", "nod", "--edit", "1 sad", "--overwrite", *MORE])
        == 0
    )
    options = {"method": "plain", "seconds": 2.5, "seed": 7, "emotion": "happy", "action": "nod"}
    options["edits"] = [Edit(1.0, emotion="sad")]
    options |= {"face_box": (1, 2, 30.5, 40), "crop": False, "rate": 8000, "fps": "29.97"}
    options |= {"save_every": 7, "resume": True}
    call = ("face.png", "hello.wav", "new.mp4", options | {"overwrite": True, "progress": True})
    assert animator == [("load", "mine"), call]
    out, err = capsys.readouterr()
    assert out == "7 frames\n" and err == "knotjax: note: a hard portrait\n"


def test_animate_defaults(files, animator, monkeypatch):
    assets = files / "assets"
    assets.mkdir()
    Path("face.png").rename(assets / "portrait.png")
    Path("hello.wav").rename(assets / "hello.wav")
    monkeypatch.setattr(cli, "ASSETS", assets)
    assert cli.main(["animate"]) == 0
    options = {"method": None, "seconds": None, "seed": 0, "emotion": None, "action": None}
    options["edits"] = []
    options |= {"face_box": None, "crop": True, "rate": 16_000, "fps": "25", "save_every": 250, "resume": False}
    call = (assets / "portrait.png", assets / "hello.wav", "out.mp4", options | {"overwrite": False, "progress": True})
    assert animator == [("load", None), call]


GOOD = ["animate", "--image", "face.png", "--audio", "hello.wav"]
BAD = {
    "nothing": ([], "COMMAND"),
    "unknown command": (["dance"], "dance"),
    "unknown option": ([*GOOD, "--fast"], "--fast"),
    "no value": (["animate", "--image"], "--image"),
    "seconds is a word": ([*GOOD, "--seconds", "two"], "--seconds"),
    "no seconds": ([*GOOD, "--seconds", "0"], "above 0"),
    "negative seconds": ([*GOOD, "--seconds=-1"], "above 0"),
    "endless": ([*GOOD, "--seconds", "inf"], "above 0"),
    "nan": ([*GOOD, "--seconds", "nan"], "above 0"),
    "seed": ([*GOOD, "--seed", "-1"], "4294967295"),
    "large seed": ([*GOOD, "--seed", str(2**32)], "4294967295"),
    "emotion": ([*GOOD, "--emotion", "furious; rm -rf"], "happy"),
    "action": ([*GOOD, "--action", ""], "nod"),
    "edit": ([*GOOD, "--edit", "soon happy"], "SECONDS WORD"),
    "edit word": ([*GOOD, "--edit", "1 bored"], "bored"),
    "emotion as action": ([*GOOD, "--action", "happy"], "nod"),
    "no picture": (["animate", "--image", "nobody.png", "--audio", "hello.wav"], "nobody.png"),
    "picture is a sound": (["animate", "--image", "hello.wav", "--audio", "hello.wav"], "hello.wav"),
    "no sound": (["animate", "--image", "face.png", "--audio", "nothing.wav"], "nothing.wav"),
    "sound is a picture": (["animate", "--image", "face.png", "--audio", "face.png"], "face.png"),
    "output exists": ([*GOOD, "-o", "taken.mp4"], "--overwrite"),
    "output folder": ([*GOOD, "-o", "nowhere/out.mp4"], "nowhere"),
    "output kind": ([*GOOD, "-o", "hello.wav", "--overwrite"], ".mp4"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(files, animator, capsys, case):
    arguments, reason = BAD[case]
    Path("taken.mp4").write_bytes(b"earlier")
    before = sorted(files.iterdir())
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    print(err)
    assert out == "" and err.startswith("knotjax: ") and len(err.splitlines()) == 1 and reason in err
    assert animator == [] and sorted(files.iterdir()) == before and Path("taken.mp4").read_bytes() == b"earlier"


@pytest.mark.parametrize("command, module", [("train", "training.trainer"), ("evaluate", "evaluate")])
def test_other_commands_pass_their_arguments_on(monkeypatch, command, module):
    calls = []
    stand_in(monkeypatch, f"knotjax.{module}", main=calls.append)
    arguments = ["--config=configs/small.py", "--workdir", "x", "--config.steps=3", "-h", "--", "animate"]
    assert cli.main([command, *arguments]) == 0
    assert calls == [arguments]


@pytest.mark.parametrize(
    "error, status, line",
    [
        (InputError("weights: gone: get them"), 2, "knotjax: weights: gone: get them\n"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_exit_status_of_errors_inside_a_command(monkeypatch, capsys, error, status, line):
    def fail(arguments):
        raise error

    stand_in(monkeypatch, "knotjax.training.trainer", main=fail)
    assert cli.main(["train"]) == status
    assert capsys.readouterr().err == (line or "knotjax: stopped\n")


def test_bugs_are_not_hidden(monkeypatch):
    def fail(arguments):
        raise RuntimeError("a bug")

    stand_in(monkeypatch, "knotjax.training.trainer", main=fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train"])


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *code.split(" ", 1), *arguments], capture_output=True, text=True, env=ENV, timeout=60
    )


def test_as_a_module(files):
    done = run("-m knotjax", "animate", "--image", "nobody.png")
    print(done.stderr)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("knotjax: picture 'nobody.png'") and len(done.stderr.splitlines()) == 1
    done = run("-m knotjax", "animate", "--help")
    assert done.returncode == 0 and "--emotion" in done.stdout
    done = run("-m knotjax", "--help")
    assert done.returncode == 0 and all(word in done.stdout for word in ("animate", "evaluate", "train"))


def test_bad_input_is_told_before_heavy_libraries_load(files):
    code = (
        "-c import sys; from knotjax.cli import main; status = main(sys.argv[1:]);"
        "print(status, sorted({'jax', 'flax', 'optax', 'orbax', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    assert run(code, "animate", "--image", "nobody.png").stdout == "2 []\n"


def test_logged_lines_have_their_time():
    """Though grain sets logging up while it is imported."""
    code = (
        "-c import logging, grain; from knotjax.progress import show_log; show_log();"
        "logging.getLogger('knotjax').info('step 1'); logging.getLogger('other').info('unseen')"
    )
    assert re.fullmatch(r"\d\d:\d\d:\d\d step 1\n", run(code).stderr)


def test_interrupt_from_the_keyboard(files):
    code = """
import sys, time, types
from knotjax import cli
def wait(arguments):
    print("ready", flush=True)
    while True:  # a signal just before one long wait would be slept over
        time.sleep(0.05)
sys.modules["knotjax.training.trainer"] = module = types.ModuleType("knotjax.training.trainer")
module.main = wait
import knotjax.training
knotjax.training.trainer = module
sys.exit(cli.main(["train"]))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV
    )
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130 and err == "knotjax: stopped\n"


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_progress_without_a_terminal_says_a_line_every_ten_seconds(monkeypatch):
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr(progress, "time", clock)
    with progress.Progress(750, stream=stream) as shown:
        for _ in range(30):
            clock.now += 1.0
            shown.update(25)
    print(stream.getvalue())
    assert stream.getvalue().splitlines() == [
        "250/750 frames, 25.0 fps, 00:20 left",
        "500/750 frames, 25.0 fps, 00:10 left",
        "750/750 frames, 25.0 fps, 00:00 left",
    ]


def test_progress_of_unknown_length_and_before_any_frame():
    shown = progress.Progress(None, stream=io.StringIO())
    shown.update(50)
    assert shown.line(2.0) == "50 frames, 25.0 fps"
    assert progress.Progress(10, stream=io.StringIO()).line(0.0) == "0/10 frames, 0.0 fps, ? left"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar():
    stream = Terminal()
    with progress.Progress(10, stream=stream) as shown:
        shown.update(10)
    assert "10/10" in stream.getvalue() and "frame/s" in stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_progress_can_be_off(monkeypatch, stream):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with progress.Progress(10, enabled=False, stream=stream) as shown:
        clock.now += 60
        shown.update(10)
    assert stream.getvalue() == ""


def test_peak_memory_grows_with_use():
    before = progress.peak_memory_mib()
    size = int(before) + 64  # above any earlier peak
    block = np.ones(size * 2**20, np.uint8)
    after = progress.peak_memory_mib()
    print(f"{before:.0f} -> {after:.0f} MiB with {size} MiB more")
    assert block[-1] == 1 and after >= max(before, size) and after < 10 * (before + size)
