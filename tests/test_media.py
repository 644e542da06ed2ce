import io
import os
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

import knotjax
from knotjax.errors import InputError
from knotjax.media import VideoWriter, read_picture, read_sound, read_video

MEGABYTE = 2**20
ENV = os.environ | {"PYTHONPATH": str(Path(knotjax.__file__).parents[1])}  # for child processes in other folders


def one_line(error: InputError, path) -> str:
    text = str(error)
    print(text)
    assert "\n" not in text and path.name in text and ": " in text
    return text


# pictures


def quadrants(size=64) -> np.ndarray:
    """Red, green / blue, white."""
    picture = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    picture[:half, :half], picture[:half, half:] = (200, 30, 40), (30, 200, 40)
    picture[half:, :half], picture[half:, half:] = (30, 40, 200), (240, 240, 240)
    return picture


def corners(picture: np.ndarray) -> np.ndarray:
    size = len(picture)
    near, far = size // 4, size - size // 4
    return picture[[near, near, far, far], [near, far, near, far]].astype(int)  # [4, 3]


def png(width, height, pixels=b"", colour=2, depth=8) -> bytes:
    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind, tolerance", [("PNG", 2), ("JPEG", 12), ("WEBP", 12)])
def test_picture_formats_whatever_the_suffix(tmp_path, kind, tolerance):
    path = tmp_path / "face.dat"
    Image.fromarray(quadrants()).save(path, kind)
    picture = read_picture(path)
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
    worst = np.abs(corners(picture) - corners(quadrants())).max()
    print(f"{kind}: worst corner error {worst}")
    assert worst <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_exif_rotation(tmp_path, orientation):
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.jpg"
    Image.fromarray(np.ascontiguousarray(undo[orientation](quadrants()))).save(path, exif=exif, quality=95)
    assert np.abs(corners(read_picture(path, 64)) - corners(quadrants())).max() <= 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_picture_modes(tmp_path, mode):
    grey = np.full((40, 40), 200, np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
        assert image.mode == mode
    else:
        image = Image.fromarray(grey).convert("RGB")
        image = image.quantize() if mode == "P" else image.convert(mode)
    path = tmp_path / ("face.jpg" if mode == "CMYK" else "face.png")
    image.save(path)
    picture = read_picture(path, 32)
    expected = (0, 255) if mode == "1" else (196, 204)  # one bit is dithered
    print(mode, picture.min(), picture.max())
    assert picture.shape == (32, 32, 3) and picture.min() >= expected[0] and picture.max() <= expected[1]
    assert abs(float(picture.mean()) - 200) < 8


def test_picture_transparency_shows_mid_grey_and_hides_colour(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 0] = 255  # red everywhere, visible on the right only
    pixels[:, 32:, 3] = 255
    path = tmp_path / "cut out.png"
    Image.fromarray(pixels).save(path)
    picture = read_picture(path, 64).astype(int)
    assert (picture[:, :28] == 128).all() and (picture[:, 36:] == (255, 0, 0)).all()
    pixels[..., 3] = 128
    Image.fromarray(pixels).save(path)
    assert np.abs(read_picture(path, 64).astype(int) - (191, 64, 64)).max() <= 1


def test_picture_centre_crop_keeps_proportions(tmp_path):
    wide = np.concatenate([np.zeros((50, 25, 3), np.uint8), quadrants(50), np.full((50, 25, 3), 255, np.uint8)], axis=1)
    path = tmp_path / "wide.png"
    Image.fromarray(wide).save(path)
    np.testing.assert_array_equal(read_picture(path, 50), quadrants(50))
    Image.fromarray(wide.transpose(1, 0, 2)).save(path)
    np.testing.assert_array_equal(read_picture(path, 50), quadrants(50).transpose(1, 0, 2))


def test_picture_shrinking_averages(tmp_path):
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    path = tmp_path / "checks.png"
    Image.fromarray(checks).save(path)
    inner = read_picture(path, 64)[4:-4, 4:-4].astype(int)
    print(f"checkerboard becomes {inner.min()}..{inner.max()}")
    assert np.abs(inner - 127).max() <= 2


def _jpeg(size=200) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)).save(data, "JPEG")
    return data.getvalue()


def _encoded(kind, size=(64, 64)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size).save(data, kind)
    return data.getvalue()


BAD_PICTURES = {
    "empty": (b"", "empty"),
    "text": (b"hello, world\n" * 50, "not a usable"),
    "gif": (_encoded("GIF"), "not a usable"),
    "tiff": (_encoded("TIFF"), "not a usable"),
    "signature only": (b"\x89PNG\r\n\x1a\n", "not a usable"),
    "short jpeg": (_jpeg()[:9000], "damaged"),
    "short png": (png(64, 64, b"\0" * 500), "damaged"),
    "png without pixels": (png(100, 100), "damaged"),
    "41 megapixels": (png(8200, 5000), "million pixels"),
    "100 megapixels": (png(10_000, 10_000), "million pixels"),
    "400 megapixels": (png(20_000, 20_000), "million pixels"),
    "15 pixels": (_encoded("PNG", (15, 300)), "at least 16"),
    "21 MiB": (_encoded("PNG") + bytes(21 * MEGABYTE), "MiB"),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
@pytest.mark.filterwarnings("error")
def test_bad_pictures(tmp_path, case):
    data, reason = BAD_PICTURES[case]
    path = tmp_path / "face.png"
    path.write_bytes(data)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert reason in one_line(caught.value, path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{time.perf_counter() - start:.2f} s, peak grew by {grown:.0f} MiB")
    assert grown < 100 and time.perf_counter() - start < 2


def test_smallest_and_largest_pictures_pass(tmp_path):
    path = tmp_path / "face.png"
    path.write_bytes(_encoded("PNG", (16, 16)))
    assert read_picture(path).shape == (128, 128, 3)
    path.write_bytes(png(8000, 5000, bytes(5000 * (8000 // 8 + 1)), colour=0, depth=1))
    assert read_picture(path).max() == 0


@pytest.mark.parametrize("read", [read_picture, read_sound, read_video])
@pytest.mark.parametrize("name", ["nobody.png", "folder", "a\0b", "x" * 300])
def test_missing_files(tmp_path, read, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot be opened|not a file") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


# sound


def tone(seconds, rate, hz=440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("kind, floor_db", [("WAV", 60), ("FLAC", 60), ("OGG", 20), ("MP3", 20)])
@pytest.mark.parametrize("rate, channels", [(16_000, 1), (44_100, 2), (48_000, 1)])
def test_sound_formats_and_rates(tmp_path, kind, floor_db, rate, channels):
    path = tmp_path / f"speech.{kind.lower()}"
    soundfile.write(path, np.repeat(tone(1.3, rate)[:, None], channels, axis=1), rate, format=kind)
    wave, wanted = read_sound(path), tone(1.3, 16_000)
    assert wave.dtype == np.float32 and wave.shape == wanted.shape
    inner = slice(1600, -1600)
    ratio = 10 * np.log10(np.mean(wanted[inner] ** 2) / np.mean((wave - wanted)[inner] ** 2))
    print(f"{kind} {rate}: {ratio:.1f} dB")
    assert ratio > floor_db


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_sound_read_in_parts_equals_sound_read_whole(tmp_path, kind):
    path = tmp_path / "speech"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 54_321), 16_000, format=kind)
    whole, _ = soundfile.read(path, dtype="float32")
    worst = np.abs(read_sound(path) - whole).max()
    print(f"{kind}: worst difference {worst:.2g}")
    assert worst < 1e-5  # MP3 by FFmpeg on one side and libsndfile on the other


def test_sound_channels_are_averaged(tmp_path):
    path = tmp_path / "stereo.wav"
    left = tone(0.2, 16_000)
    soundfile.write(path, np.stack([left, -left], axis=1), 16_000, subtype="FLOAT")
    assert np.abs(read_sound(path)).max() == 0


def test_sound_broken_samples_become_silence_with_one_warning(tmp_path, caplog):
    wave = tone(2.0, 22_050)
    wave[[10, 11, 30_000]] = np.nan, np.inf, -np.inf
    wave[20_000] = 1e30
    path = tmp_path / "broken.wav"
    soundfile.write(path, wave, 22_050, subtype="FLOAT")
    read = read_sound(path)
    assert np.isfinite(read).all() and np.abs(read).max() <= 1.0
    assert [record.getMessage().count("3 samples") for record in caplog.records] == [1]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("samples", [1, 2, 7, 441])
def test_sound_of_a_few_samples(tmp_path, rate, samples):
    path = tmp_path / "click.wav"
    soundfile.write(path, np.full(samples, 0.25, np.float32), rate)
    assert len(read_sound(path)) == -(-samples * 16_000 // rate) >= 1


def _sound(samples, rate, **options) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, samples, rate, **({"format": "WAV"} | options))
    return data.getvalue()


def _silent_video() -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(1)[0], format="rgb24")))
        container.mux(stream.encode(None))
    return data.getvalue()


BAD_SOUNDS = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"hello, world\n" * 50, "not usable"),
    "header only": (lambda: b"RIFF\x24\0\0\0WAVE", "not usable"),
    "no samples": (lambda: _sound(np.zeros(0), 16_000), "no samples"),
    "picture": (lambda: _encoded("PNG"), "not usable"),
    "silent video": (lambda: _silent_video(), "holds no sound"),
    "short flac": (
        lambda: _sound(np.random.default_rng(0).normal(0, 0.1, 40_000), 16_000, format="FLAC")[:-9000],
        "cut",
    ),
    "601 s": (lambda: _sound(np.zeros(601 * 8_000), 8_000, format="FLAC"), "601.0 s"),
    "4 kHz": (lambda: _sound(np.zeros(100), 4_000), "4000 samples"),
    "384 kHz": (lambda: _sound(np.zeros(100), 384_000), "384000 samples"),
    "9 channels": (lambda: _sound(np.zeros((100, 9)), 16_000), "9 channels"),
}


@pytest.mark.parametrize("suffix", ["wav", "raw"])
@pytest.mark.parametrize("case", BAD_SOUNDS)
def test_bad_sounds(tmp_path, case, suffix):
    make, reason = BAD_SOUNDS[case]
    path = tmp_path / f"speech.{suffix}"
    path.write_bytes(make())
    if suffix == "raw":  # soundfile asks for the layout of .raw files; every one is refused with another message
        reason = "sound"
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        read_sound(path)
    assert reason in one_line(caught.value, path) and time.perf_counter() - start < 2


def test_sound_of_600_s_passes_and_a_short_mp3_is_reported(tmp_path, caplog):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(600 * 8_000, np.int16), 8_000)
    assert len(read_sound(path)) == 600 * 16_000
    whole = _sound(tone(3.0, 16_000), 16_000, format="MP3")
    path = tmp_path / "short.mp3"
    path.write_bytes(whole[: len(whole) // 2])
    assert 16_000 < len(read_sound(path)) < 32_000
    assert "cut short" in caplog.text


# video


def moving(frames, height=32, width=32, first=0) -> np.ndarray:
    """A bright bar whose place tells the frame number, uint8 [frames, height, width, 3]."""
    video = np.full((frames, height, width, 3), 40, np.uint8)
    for row in range(frames):
        left = (first + row) * 2 % width
        video[row, :, left : left + 4] = 220
    return video


def durations(path) -> tuple[float, float]:
    with av.open(f"file:{path}") as container:
        return tuple(float(s.duration * s.time_base) for s in (container.streams.video[0], container.streams.audio[0]))


@pytest.mark.parametrize("sound_seconds", [0.0, 0.01, 3.3, 20.0])
@pytest.mark.parametrize("frames", [1, 2, 3, 7, 33, 101])
def test_video_and_sound_last_equally_long(tmp_path, frames, sound_seconds):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, size=32, sound=tone(sound_seconds, 16_000)) as writer:
        for start in range(0, frames, 9):
            writer.write(moving(min(9, frames - start), first=start))
    picture_time, sound_time = durations(path)
    video, fps, wave = read_video(path)
    print(
        f"{frames} frames, {sound_seconds} s given: picture {picture_time} s, sound {sound_time} s, {len(wave)} samples"
    )
    assert video.shape == (frames, 32, 32, 3) and fps == 25
    assert picture_time == pytest.approx(frames / 25, abs=1e-6)
    assert abs(picture_time - sound_time) <= 1 / 25 and abs(len(wave) / 16_000 - frames / 25) <= 1e-9
    given = min(len(wave), round(sound_seconds * 16_000))
    assert np.sqrt(np.mean(wave[given + 1100 :] ** 2)) < 1e-3 if len(wave) > given + 1100 else True


@pytest.mark.parametrize("fps, rate", [(Fraction(30_000, 1001), 44_100), (24, 48_000), (50, 8_000)])
def test_other_frame_and_sample_rates(tmp_path, fps, rate):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, fps, (24, 40), rate) as writer:
        writer.write(moving(61, 24, 40))
        writer.write_sound(tone(5, rate))
    picture_time, sound_time = durations(path)
    video, read_fps, wave = read_video(path)
    print(fps, rate, picture_time, sound_time, len(wave))
    assert video.shape == (61, 24, 40, 3) and read_fps == pytest.approx(float(fps))
    assert picture_time == pytest.approx(61 / fps, abs=1e-3) and abs(picture_time - sound_time) < 2e-3
    assert abs(len(wave) / 16_000 - float(61 / fps)) < 2e-3


def test_frames_stay_in_order_and_look_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = moving(90)
    given[..., 1] //= 2
    path = Path("http:b %d ü.mp4")  # FFmpeg would take the bare name for an address
    with VideoWriter(str(path), size=32) as writer:
        for start in range(0, 90, 13):
            writer.write(given[start : start + 13])
    video, _, _ = read_video(path)
    psnr = 10 * np.log10(255**2 / np.mean((video[..., 1].astype(float) - given[..., 1]) ** 2, axis=(1, 2)))
    print(f"green PSNR {psnr.min():.1f} .. {psnr.max():.1f} dB")
    assert psnr.min() > 25
    with av.open(f"file:{path}") as container:
        assert container.metadata["comment"] == "synthetic video made by knotjax"
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.audio[0].codec_context.name == "aac"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_colours_survive(tmp_path):
    path = tmp_path / "out.mp4"
    frames = np.repeat(quadrants(64)[None], 5, axis=0)
    with VideoWriter(path, size=64) as writer:
        writer.write(frames)
    error = np.abs(corners(read_video(path)[0][2]) - corners(quadrants(64))).max()
    print(f"worst colour error {error}")
    assert error <= 6


@pytest.mark.parametrize("pieces", ["up front", "with the frames", "after the frames", "one block ahead"])
def test_sound_stays_in_place(tmp_path, pieces):
    wave = np.zeros(4 * 16_000, np.float32)
    places = (8_000, 24_000, 47_999)
    for place in places:  # short tones, each with a sharp start
        wave[place : place + 800] = tone(0.05, 16_000, 1000)
    path = tmp_path / "out.mp4"
    with VideoWriter(path, size=32, sound=wave if pieces == "up front" else None) as writer:
        if pieces == "one block ahead":
            writer.write_sound(wave[: 10 * 640])
        for block in range(10):
            writer.write(moving(10, first=10 * block))
            if pieces == "with the frames":
                writer.write_sound(wave[6400 * block : 6400 * (block + 1)])
            elif pieces == "one block ahead":
                writer.write_sound(wave[6400 * (block + 1) : 6400 * (block + 2)])
        if pieces == "after the frames":
            writer.write_sound(wave)
    _, _, read = read_video(path)
    for place in places:
        score = np.correlate(read[place - 700 : place + 1500], wave[place : place + 800], mode="valid")
        lag = int(np.argmax(score)) - 700
        print(f"{pieces}: tone at {place} lags {lag} samples")
        assert abs(lag) <= 16  # one period of the tone


def test_exception_removes_the_part_and_nothing_else(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"earlier")
    (tmp_path / "neighbour.part").write_bytes(b"x")
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(path, size=32, overwrite=True) as writer:
        writer.write(moving(40))
        assert (tmp_path / "out.mp4.part").exists()
        raise RuntimeError("stop")
    assert path.read_bytes() == b"earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["neighbour.part", "out.mp4"]
    with VideoWriter(path, size=32, overwrite=True) as writer:
        writer.write(moving(3))
    assert len(read_video(path)[0]) == 3


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no frames"), VideoWriter(tmp_path / "out.mp4", size=32):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 32, 32, 3), np.float32), np.zeros((32, 32, 3), np.uint8), np.zeros((1, 32, 34, 3), np.uint8)],
)
def test_wrong_frames_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="not uint8"), VideoWriter(tmp_path / "out.mp4", size=32) as writer:
        writer.write(frames)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sound", [np.array([0.0, np.nan]), np.zeros((4, 2))])
def test_wrong_sound_is_refused(tmp_path, sound):
    with pytest.raises(ValueError, match="not finite"):
        VideoWriter(tmp_path / "out.mp4", size=32, sound=sound)


@pytest.mark.parametrize(
    "name, options, reason",
    [
        ("exists.mp4", {}, "exists"),
        ("link.mp4", {}, "exists"),
        ("nowhere/out.mp4", {}, "no folder"),
        ("exists.mp4/out.mp4", {}, "no folder"),
        ("folder.mp4", {"overwrite": True}, "is a folder"),
        ("out.avi", {}, "does not end in .mp4"),
        ("out", {}, "does not end in .mp4"),
        ("a\0b.mp4", {}, "not a usable name"),
        ("x" * 300 + ".mp4", {}, "not a usable name"),
        ("odd.mp4", {"size": 127}, "even"),
        ("odd.mp4", {"size": (64, 63)}, "even"),
    ],
)
def test_bad_outputs_are_refused_before_work(tmp_path, name, options, reason):
    (tmp_path / "exists.mp4").write_bytes(b"earlier")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nothing")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=reason) as caught:
        VideoWriter(tmp_path / name, **options)
    print(caught.value)
    assert "\n" not in str(caught.value) and sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "exists.mp4").read_bytes() == b"earlier"


def test_unwritable_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    # The superuser passes permission bits, so a folder of the kernel's stands in for one nobody can write to.
    target = folder if not os.access(folder, os.W_OK) else "/proc"
    with pytest.raises(InputError, match="cannot be written") as caught, VideoWriter(f"{target}/out.mp4", size=32):
        pass
    assert "\n" not in str(caught.value)


def test_part_name_taken_by_a_folder(tmp_path):
    (tmp_path / "out.mp4.part").mkdir()
    with pytest.raises(InputError, match="cannot be written"), VideoWriter(tmp_path / "out.mp4", size=32):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4.part"]


def script(body: str, *arguments) -> list[str]:
    head = "import resource, signal, sys, time\nimport numpy as np\nfrom knotjax.media import VideoWriter\n"
    return [sys.executable, "-c", head + textwrap.dedent(body), *map(str, arguments)]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    body = """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        from knotjax.errors import InputError
        noise = np.random.default_rng(0).integers(0, 256, (50, 128, 128, 3), np.uint8)
        try:
            with VideoWriter(sys.argv[1]) as writer:
                for _ in range(10):
                    writer.write(noise)
        except InputError as error:
            print(error)
            sys.exit(2)
    """
    done = subprocess.run(script(body, tmp_path / "out.mp4"), capture_output=True, text=True, env=ENV, timeout=60)
    print(done.stdout, done.stderr)
    assert done.returncode == 2 and "cannot be written" in done.stdout and len(done.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_leaves_no_output(tmp_path, sign):
    path = tmp_path / "out.mp4"
    body = """
        with VideoWriter(sys.argv[1]) as writer:
            while True:
                writer.write(np.zeros((25, 128, 128, 3), np.uint8))
                print("block", flush=True)
                time.sleep(0.01)
    """
    child = subprocess.Popen(script(body, path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENV)
    for _ in range(5):
        assert child.stdout.readline() == "block\n"
    child.send_signal(sign)
    child.communicate(timeout=30)
    left = [p.name for p in tmp_path.iterdir()]
    print(sign.name, child.returncode, left)
    assert left == (["out.mp4.part"] if sign == signal.SIGKILL else [])
    with VideoWriter(path, size=32) as writer:  # the remains of a killed run are no obstacle
        writer.write(moving(2))
    assert len(read_video(path)[0]) == 2 and [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_memory_stays_flat(tmp_path):
    body = """
        page = resource.getpagesize()
        resident = lambda: int(open("/proc/self/statm").read().split()[1]) * page / 2**20
        block = np.random.default_rng(0).integers(0, 40, (25, 128, 128, 3), np.uint8)
        sound = np.zeros(16_000, np.float32)
        with VideoWriter(sys.argv[1]) as writer:
            for second in range(75):
                if second == 15:
                    warm = resident()
                writer.write(np.roll(block, second, axis=2))
                writer.write_sound(sound)
            print(warm, resident())
    """
    done = subprocess.run(
        script(body, tmp_path / "out.mp4"), capture_output=True, text=True, env=ENV, timeout=120, check=True
    )
    warm, end = map(float, done.stdout.split())
    print(f"1500 frames (108 MiB of pixels): {warm:.1f} -> {end:.1f} MiB")
    assert end - warm < 8
    assert durations(tmp_path / "out.mp4") == (75.0, 75.0)


@pytest.mark.parametrize("data, reason", [(b"", "empty"), (b"junk" * 500, "damaged")])
def test_bad_videos(tmp_path, data, reason):
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_video(path)
    assert reason in one_line(caught.value, path)


def test_videos_without_sound_picture_or_end(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, size=32) as writer:
        writer.write(moving(30))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"damaged|no frames"):
        read_video(path)
    soundfile.write(path.with_suffix(".wav"), tone(0.1, 16_000), 16_000)
    with pytest.raises(InputError, match="no picture"):
        read_video(path.with_suffix(".wav"))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        for picture in moving(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    frames, _, wave = read_video(path)
    assert len(frames) == 4 and wave.shape == (0,)
