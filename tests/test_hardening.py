"""What a stranger can give by mistake, through the command line: one line each, status 2, and nothing else happens."""

import io
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from knotjax import bundle, cli, weights
from knotjax.errors import InputError
from knotjax.media import VideoWriter
from tests.test_media import png

HELLO = bundle.SHIPPED.parent / "hello.wav"


def picture(kind="PNG", size=(64, 64), **options) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (120, 90, 60)).save(data, kind, **options)
    return data.getvalue()


def sound(samples=None, rate=16_000, **options) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, np.zeros(1600) if samples is None else samples, rate, **({"format": "WAV"} | options))
    return data.getvalue()


def video() -> bytes:
    with VideoWriter("v.mp4", size=32) as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    data = Path("v.mp4").read_bytes()
    Path("v.mp4").unlink()
    return data


# name: (arguments in place of the good ones, contents of "file", words that the line must hold)
BAD = {
    # pictures
    "no picture": (["--image", "nobody.png"], None, ["nobody.png", "check the path"]),
    "picture is a folder": (["--image", "."], None, ["not a file", "path"]),
    "empty picture": (["--image", "file"], lambda: b"", ["file", "empty", "another"]),
    "text as a picture": (["--image", "file"], lambda: b"hello\n" * 99, ["file", "not a usable", "PNG"]),
    "GIF": (["--image", "file"], lambda: picture("GIF"), ["file", "not a usable", "PNG"]),
    "sound as a picture": (["--image", "hello.wav"], None, ["hello.wav", "not a usable", "PNG"]),
    "video as a picture": (["--image", "file"], video, ["file", "not a usable", "PNG"]),
    "PNG bomb": (["--image", "file"], lambda: png(20_000, 20_000), ["file", "million pixels", "smaller"]),
    "PNG bomb under Pillow's limit": (["--image", "file"], lambda: png(10_000, 10_000), ["million pixels", "smaller"]),
    "large file": (["--image", "file"], lambda: picture() + bytes(21 * 2**20), ["file", "MiB", "at most"]),
    "tiny picture": (["--image", "file"], lambda: picture(size=(15, 300)), ["15x300", "at least"]),
    "cut picture": (["--image", "file"], lambda: picture("JPEG", (400, 400), quality=95)[:900], ["file", "cut short"]),
    "face box outside": (["--face-box", "10,10,90,90"], None, ["face box", "inside", "64x64"]),
    "face box of words": (["--face-box", "here"], None, ["--face-box"]),
    "face box of three": (["--face-box", "1,2,3"], None, ["--face-box", "X,Y,WIDTH,HEIGHT"]),
    "face box without end": (["--face-box", "1,2,nan,inf"], None, ["--face-box", "pixels"]),
    # sound
    "no sound": (["--audio", "nothing.wav"], None, ["nothing.wav", "check the path"]),
    "empty sound": (["--audio", "file"], lambda: b"", ["file", "empty", "another"]),
    "text as sound": (["--audio", "file"], lambda: b"hello\n" * 99, ["file", "not usable", "convert"]),
    "picture as sound": (["--audio", "face.png"], None, ["face.png", "not usable", "convert"]),
    "header alone": (["--audio", "file"], lambda: b"RIFF\x24\0\0\0WAVE", ["file", "not usable", "convert"]),
    "no samples": (["--audio", "file"], lambda: sound(np.zeros(0)), ["file", "no samples", "another"]),
    "4 kHz": (["--audio", "file"], lambda: sound(rate=4000), ["file", "4000", "convert"]),
    "384 kHz": (["--audio", "file"], lambda: sound(rate=384_000), ["file", "384000", "convert"]),
    "9 channels": (["--audio", "file"], lambda: sound(np.zeros((99, 9))), ["file", "9 channels", "mix"]),
    "playlist": (
        ["--audio", "file"],
        lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhello.wav\n#EXT-X-ENDLIST\n",
        ["file", "not usable"],
    ),
    "list of other files": (["--audio", "file"], lambda: b"ffconcat version 1.0\nfile hello.wav\n", ["not usable"]),
    "rate of standard input": (["--audio", "-", "--rate", "100"], None, ["--rate", "100", "8000"]),
    # output
    "output exists": (["-o", "taken.mp4"], None, ["taken.mp4", "exists", "--overwrite"]),
    "output kind": (["-o", "out.avi"], None, ["out.avi", ".mp4", "rename"]),
    "output is the sound": (["-o", "hello.wav", "--overwrite"], None, ["hello.wav", ".mp4"]),
    "output folder": (["-o", "nowhere/out.mp4"], None, ["nowhere", "create"]),
    "output is a folder": (["-o", "folder.mp4", "--overwrite"], None, ["folder.mp4", "is a folder"]),
    "read-only folder": (["-o", "/proc/out.mp4"], None, ["/proc/out.mp4", "cannot be written", "another folder"]),
    "nothing to resume": (["--resume"], None, ["out.mp4", "no saved state", "without --resume"]),
    "resume a pipe": (["--resume", "--audio", "-"], None, ["resume", "sound file"]),
    # model
    "no weights": (["--weights", "nowhere"], None, ["nowhere", "check the path"]),
    "weights are a file": (["--weights", "hello.wav"], None, ["hello.wav", "check the path"]),
    "folder without weights": (["--weights", "folder.mp4"], None, ["folder.mp4", "check the path"]),
    # flags
    "seconds": (["--seconds", "1e9"], None, ["seconds", "86400"]),
    "no seconds": (["--seconds", "0"], None, ["--seconds", "above 0"]),
    "not a number": (["--seconds", "nan"], None, ["--seconds", "above 0"]),
    "seed": (["--seed", "-1"], None, ["--seed"]),
    "fps": (["--fps", "1000"], None, ["--fps", "29.97"]),
    "save every": (["--save-every", "-3"], None, ["--save-every"]),
    "method": (["--method", "magic"], None, ["magic", "knot_forcing"]),
    "emotion": (["--emotion", "$(reboot)"], None, ["reboot", "happy"]),
    "edit": (["--edit", "soon happy"], None, ["soon happy", "SECONDS WORD"]),
    "endless edit": (["--edit", "inf happy"], None, ["edit", "0 s"]),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with good input, and a model whose plan and checks are real but which never makes a frame."""
    monkeypatch.chdir(tmp_path)
    Path("face.png").write_bytes(picture())
    shutil.copy(HELLO, "hello.wav")
    Path("taken.mp4").write_bytes(b"earlier")
    Path("folder.mp4").mkdir()
    return tmp_path


def refused(arguments, capsys, *words) -> str:
    """Run a command that must fail as promised."""
    before = {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    print(err, file=sys.stderr)
    assert out == "" and err.startswith("knotjax: ") and len(err.splitlines()) == 1
    assert not [word for word in words if word not in err]
    assert {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")} == before
    return err


@pytest.fixture
def quick(monkeypatch):
    """No model is compiled: what must be refused is refused before."""
    from knotjax import recording
    from knotjax.pipeline import Animator

    def compiled(*_, **__):
        raise AssertionError("the bad input was not noticed before the model started")

    loaded = []

    def load(weights=None):
        if weights:
            return Animator(bundle.load(weights))
        if not loaded:
            loaded.append(bundle.load())
        return Animator(loaded[0])

    monkeypatch.setattr(Animator, "load", load)
    monkeypatch.setattr(Animator, "reconstruction_db", lambda *_: 30.0)
    monkeypatch.setattr(recording, "_compile", compiled)
    monkeypatch.setattr(Animator, "open", lambda *_, **__: types.SimpleNamespace(made=0))


@pytest.mark.parametrize("case", BAD)
def test_bad_input(folder, quick, capsys, case):
    arguments, make, words = BAD[case]
    if make:
        Path("file").write_bytes(make())
    given = ["animate", "--image", "face.png", "--audio", "hello.wav", *arguments]
    refused(given, capsys, *words)


def test_good_input_passes_all_checks(folder, quick):
    """So the cases above are refused for their own reason."""
    with pytest.raises(AssertionError, match="not noticed"):
        cli.main(["animate", "--image", "face.png", "--audio", "hello.wav", "--face-box", "8,8,40,40"])


def flip_a_bit(model: Path) -> None:
    file = next(model.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def edit_manifest(model: Path) -> None:
    manifest = model / "manifest.json"
    manifest.write_text(manifest.read_text().replace("knot", "kn0t"))


def rewrite(change):
    """Weights of which a mistaken tool made a well-sealed but different folder."""

    def apply(model: Path) -> None:
        tensors, config = weights.load_weights(model)
        change(tensors)
        weights.save_weights(model, tensors, config, "small")

    return apply


def first_kernel(tensors) -> str:
    return next(name for name in sorted(tensors) if name.startswith("dit/") and name.endswith("kernel"))


WEIGHTS = {
    "missing": (lambda model: shutil.rmtree(model), "manifest.json"),
    "no tensors file": (lambda model: next(model.glob("*.safetensors")).unlink(), "safetensors"),
    "one bit": (flip_a_bit, "SHA-256"),
    "cut": (lambda model: os.truncate(next(model.glob("*.safetensors")), 1000), "instead of"),
    "edited manifest": (
        lambda model: (model / "manifest.json").write_text(
            (model / "manifest.json").read_text().replace("knot", "kn0t")
        ),
        "damaged or was edited",
    ),
    "a tensor missing": (rewrite(lambda t: t.pop(first_kernel(t))), "dit/"),
    "a tensor of another shape": (rewrite(lambda t: t.update({first_kernel(t): t[first_kernel(t)][:-1]})), "dit/"),
    "another kind of file": (lambda model: next(model.glob("*.safetensors")).write_bytes(b"pickle"), "instead of"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_bad_weights(folder, capsys, monkeypatch, case):
    change, reason = WEIGHTS[case]
    model = folder / "model"
    shutil.copytree(bundle.SHIPPED, model)
    change(model)
    monkeypatch.setattr(bundle, "SHIPPED", model)
    refused(["animate", "--image", "face.png", "--audio", "hello.wav"], capsys, str(model), reason)


def test_a_full_disk(folder, capsys, monkeypatch):
    """The file stops growing in the middle: the line names it, and neither part nor state stays."""
    from knotjax.media import fragments
    from tests.animators import portrait, tiny, voice

    class Full(fragments._Appended):
        def write(self, data):
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(data)

    monkeypatch.setattr(fragments, "_Appended", Full)
    soundfile.write("a.wav", voice(1.0), 16_000)
    with pytest.raises(InputError, match=r"out.mp4.*No space left.*free space") as caught:
        tiny().animate(portrait(), "a.wav", "out.mp4")
    assert "\n" not in str(caught.value) and not list(Path().glob("out.mp4*"))
