"""Exported folders make the frames that the library makes, in place, and refuse what is not theirs."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax import cli, drive, exported
from knotjax.bundle import SHIPPED
from knotjax.edits import Edit
from knotjax.exported import ArtefactError
from knotjax.exporting import folder as exporting
from knotjax.exporting.programs import plain, programs, restored
from knotjax.manifest import seal, unseal
from knotjax.media import read_picture, read_sound
from knotjax.models import motion, speech
from knotjax.models.dit import Conditions
from knotjax.pipeline import Animator
from knotjax.streaming.methods import METHODS
from knotjax.streaming.step import jit_init, jit_step
from tests.animators import portrait, tiny, voice
from tests.helpers import relative

pytest.importorskip("flatbuffers", reason="extra 'export'")
WAVE = voice(2.33)
QUICK = ("live_act", "avatar_forcing")  # a short first block, a window that fills
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name not in (*QUICK, "bidirectional")]


def export(where, animator=None, method=None, **options):
    animator = animator or tiny()
    exporting.write(animator.model, animator.plan(method), where, method=method or "knot_forcing", **options)
    return where


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly(quick_compilation):
    """Both sides of every comparison but that of the shipped model."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return export(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def model(made):
    return exported.load(made)


def ran(stream, wave=WAVE, sizes=(700, 9001, 1)):
    """All frames of a loaded stream that hears a sound in pieces."""
    out, at, turn = [], 0, 0
    while at < wave.shape[-1]:
        size = sizes[turn % len(sizes)] if turn < 30 else 4000
        out.append(stream.step(wave[..., at : at + size]))
        at, turn = at + size, turn + 1
    return np.concatenate([*out, stream.end()], 1)


def in_process(animator=None, picture=None, wave=WAVE, **options):
    pieces = (animator or tiny()).stream(portrait() if picture is None else picture, [wave], **options)
    return np.concatenate([piece.frames for piece in pieces])


def test_the_same_frames(model):
    assert all(np.all(np.asarray(leaf) != 0.0) for leaf in jax.tree.leaves(tiny().model.params))
    frames = ran(model.start(portrait(), ["happy", "nod"], 5))
    assert frames.shape == (1, 59, 64, 64, 3) and frames.dtype == np.uint8
    assert grey_levels(frames[0], in_process(emotion="happy", action="nod", seed=5)) <= 1
    others = {
        "picture": model.start(portrait(1), ["happy", "nod"], 5),
        "word": model.start(portrait(), ["happy"], 5),
        "seed": model.start(portrait(), ["happy", "nod"], 6),
    }
    seen = {name: ran(stream) for name, stream in others.items()} | {
        "sound": ran(model.start(portrait(), ["happy", "nod"], 5), voice(2.33, seed=1))
    }
    for name, other in seen.items():
        assert not np.array_equal(other, frames), name
    assert np.array_equal(ran(model.start(portrait(), ["happy", "nod"], 5), sizes=(1234,)), frames)
    used = {name: program._cache_size() for name, program in model.programs.items()}
    assert used == dict.fromkeys(used, 1) | {"switch": 0}, "each program is compiled once, whatever the stream does"


def side_by_side(model, animator, steps):
    """States and latents of the library and of the folder, step by step, from the same inputs; motion is given."""
    bundle, plan, rng = animator.model, animator.plan(), np.random.default_rng(0)
    text = bundle.text(jnp.asarray(drive.word_ids("sad"))[None])
    latent = jnp.asarray(rng.normal(size=(1, *[bundle.codec.grid] * 2, bundle.codec.channels)), jnp.float32)
    key = jax.random.split(jax.random.key(2**32 - 3), 1)
    ours = jit_init(bundle.denoiser, plan, bundle.params["dit"], latent[:, None], text, key)
    theirs = model.run("init", latent, model.run("words", drive.word_ids("sad")[None]), np.uint32([2**32 - 3]))
    for _ in range(steps):
        audio = jnp.asarray(rng.normal(size=(1, plan.span, speech.WINDOW_FRAMES, speech.WIDTH)), jnp.float32)
        moves = jnp.asarray(rng.normal(size=(1, plan.span, motion.WINDOW_FRAMES, motion.WIDTH)), jnp.float32)
        ours, latents = jit_step(bundle.denoiser, plan, bundle.params["dit"], ours, Conditions(text, audio, moves))
        theirs, others = model.run("step", theirs, text, audio, moves)
        assert plain(ours).keys() == theirs.keys() and np.std(latents) > 0.1
        yield plain(ours) | {"latents": latents}, theirs | {"latents": others}


def grey_levels(one, two) -> int:
    """The largest difference of two videos; programs compiled apart may round the last bit otherwise."""
    return int(np.abs(one.astype(int) - two).max())


def test_states_and_latents(model):
    for step, (ours, theirs) in enumerate(side_by_side(model, tiny(), 6)):
        for name, array in ours.items():
            one, two = (np.asarray(a, np.float64) for a in (array, theirs[name]))
            assert np.abs(one - two).max(initial=0.0) <= 1e-5 * max(1.0, np.abs(one).max(initial=0.0)), (step, name)


@pytest.mark.parametrize("method", [*QUICK, *SLOW])
def test_every_method(tmp_path, method):
    model = exported.load(export(tmp_path, method=method))
    stream = model.start(portrait(), ["sad"], 1)
    frames = ran(stream)[0]
    expected = in_process(plan=tiny().plan(method), emotion="sad", seed=1)
    difference = np.abs(frames.astype(int) - expected).max()
    print(f"{method}: {stream._step} steps, largest difference {difference} of 255")
    assert stream._step > 2 and frames.shape == expected.shape and difference <= 1


def test_streams_side_by_side_equal_lone_ones(tmp_path, model):
    both = exported.load(export(tmp_path, batch=2))
    waves = np.stack([WAVE, voice(2.33, seed=1)])
    frames = ran(both.start(np.stack([portrait(), portrait(1)]), seed=[4, 9]), waves)
    lone = [ran(model.start(portrait(i), seed=seed), wave)[0] for i, (seed, wave) in enumerate(zip((4, 9), waves))]
    assert np.abs(frames.astype(int) - np.stack(lone)).max() <= 1 and not np.array_equal(*lone)
    counted = ran(both.start(portrait(), seed=4), WAVE)
    assert np.array_equal(counted[0], frames[0]) and not np.array_equal(counted[0], counted[1])


def test_a_program_for_tpus_alone(tmp_path):
    """The step holds the kernel, and reads the ring where it lies."""
    (step,) = export(tmp_path / "tpu", kernel="splash", platforms=("tpu",)).glob("step-*.stablehlo")
    program = step.read_bytes()
    assert b"tpu_custom_call" in program and b"LayoutConstraint" in program


@pytest.mark.parametrize("method", [None, pytest.param("longlive", marks=pytest.mark.slow)])
def test_words_and_portrait_change(tmp_path, model, method):
    model = exported.load(export(tmp_path, method=method)) if method else model
    plan = tiny().plan(method)
    stream = model.start(portrait(), ["happy"], 2)
    frames = []
    nod = Edit(0.36, action="nod", policy="recache")
    sad = Edit(0.84, emotion="sad", picture=portrait(1), policy="recache")
    for samples in np.array_split(WAVE, 60):
        if stream._step == 1 and stream._ids[1] == 0:
            stream.switch(["nod"])
        if stream._step == 2 and stream._ids[0] == drive.WORDS.index("happy"):
            stream.switch("sad", portrait(1))
        frames.append(stream.step(samples))
    frames = np.concatenate([*frames, stream.end()], 1)[0]
    expected = in_process(plan=plan, emotion="happy", seed=2, edits=[nod, sad])
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert not np.array_equal(expected, in_process(plan=plan, emotion="happy", seed=2))


def test_bad_samples_are_silence_and_loud_ones_are_clipped(model):
    bad = WAVE.copy()
    bad[1000:1003], bad[5000] = (np.nan, np.inf, -np.inf), 7.0
    good = bad.copy()
    good[1000:1003], good[5000] = 0.0, 1.0
    assert np.array_equal(ran(model.start(portrait()), bad), ran(model.start(portrait()), good))


def test_memory_of_the_sound_does_not_grow(model):
    stream, sizes = model.start(portrait()), []
    for _ in range(12):
        stream.step(voice(0.48))
        sizes.append(stream._held.shape[1])
    assert max(sizes[3:]) <= max(sizes[:3]) and stream.made > 100


def test_the_state_is_updated_in_place(model):
    """Donation is lost in the file; the loader gives it back."""
    inputs = model.signature["programs"]["step"]["inputs"]
    rows = [jax.ShapeDtypeStruct(row["shape"], row["dtype"]) for row in inputs]
    plan = tiny().plan()
    step = programs(tiny().model, plan)["step"]
    arguments = jax.tree.unflatten(jax.tree.structure(tuple(step.inputs.values())), rows)
    state = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(arguments[1]))
    call = model.programs["step"]
    memory = call.lower(*arguments).compile().memory_analysis()
    print(f"state {state} bytes, aliased {memory.alias_size_in_bytes}, temporary {memory.temp_size_in_bytes}")
    assert memory.alias_size_in_bytes >= state > 1000
    held = model.start(portrait())._state
    text = jnp.zeros((1, drive.TEXT_SLOTS, tiny().model.dit.text_dim))
    model.run("step", held, text, *(jnp.zeros(a.shape) for a in arguments[3:]))
    assert held["ring.k"].is_deleted()


def test_the_signature_tells_what_goes_in_and_comes_out(made, model):
    signature = json.loads((made / "manifest.json").read_text())["config"]
    assert signature["platforms"] == ["cpu", "cuda", "tpu"] and signature["jax"] == jax.__version__
    assert signature["sound"]["look_ahead_seconds"] == pytest.approx(0.48 + 0.16 + 0.0875)
    assert signature["plan"]["chunk"] == 3 and signature["plan"]["span"] == 4 and signature["sample_rate"] == 16_000
    for name, facts in signature["programs"].items():
        data = bytearray((made / facts["file"]).read_bytes())
        assert re.findall(rb"[\w./]*\.py", data) and not re.search(rb"/[\w./]*\.py", data), "no folder of this machine"
        program = jax.export.deserialize(data)
        assert program.platforms == ("cpu", "cuda", "tpu"), name
        for rows, shapes in ((facts["inputs"], program.in_avals), (facts["outputs"], program.out_avals)):
            assert [(row["shape"], row["dtype"]) for row in rows] == [(list(a.shape), a.dtype.name) for a in shapes]
    step = signature["programs"]["step"]
    assert step["donated"] == ["state"] and step["arguments"] == ["weights", "state", "text", "audio", "motion"]
    assert [row["name"] for row in step["outputs"]][-1] == "state/written" or step["outputs"][-1]["name"] == "latents"


def test_states_survive_being_made_plain():
    plan, bundle = tiny().plan(), tiny().model
    text, key = bundle.text(jnp.zeros((1, 2), jnp.int32)), jax.random.split(jax.random.key(1), 1)
    reference = jnp.ones((1, 1, 4, 4, 8))
    state = jit_init(bundle.denoiser, plan, bundle.params["dit"], reference, text, key)
    again = restored(state, plain(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and bool(jnp.all(a == b)), state, again)
    assert all(jax.tree.leaves(same))


WITHOUT = """
import sys
for name in ("knotjax", "flax", "safetensors", "orbax", "optax", "soxr", "av", "PIL", "tqdm"):
    sys.modules[name] = None  # importing it fails
import numpy as np
from exported import load
stream = load(".").start(np.load("picture.npy"), ["sad"], 3)
frames = [stream.step(part) for part in np.array_split(np.load("wave.npy"), 7)]
np.save("frames.npy", np.concatenate([*frames, stream.end()], 1))
"""


def test_runs_where_knotjax_is_not(made, tmp_path):
    here = tmp_path / "far away"
    shutil.copytree(made, here)
    np.save(here / "picture.npy", portrait())
    np.save(here / "wave.npy", WAVE)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as in this process
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=here, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert grey_levels(np.load(here / "frames.npy")[0], in_process(emotion="sad", seed=3)) <= 1


def flip(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("harm", [flip, cut, lengthen, Path.unlink])
def test_any_harm_is_told_and_named(made, tmp_path, harm):
    names = sorted(file.name for file in made.iterdir() if file.name != exporting.LOADER)
    assert len(names) == 9
    for name in names:
        here = tmp_path / name.partition("-")[0]
        shutil.copytree(made, here)
        harm(here / name)
        with pytest.raises(ArtefactError) as caught:
            exported.load(here)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def changed(made, where, **changes):
    """A copy whose manifest says something else, and is sealed."""
    shutil.copytree(made, where)
    body = unseal((where / "manifest.json").read_bytes())
    body["config"] |= changes
    (where / "manifest.json").write_bytes(seal(body))
    return where


def test_another_version_or_machine_is_refused(made, tmp_path):
    exported.load(changed(made, tmp_path / "same"))
    with pytest.raises(ArtefactError, match="version 2, this loader reads 1"):
        exported.load(changed(made, tmp_path / "newer", artefact=2))
    with pytest.raises(ArtefactError, match="exported for tpu, but jax runs on cpu: export with --platforms"):
        exported.load(changed(made, tmp_path / "tpu", platforms=["tpu"]))
    with pytest.raises(ArtefactError, match="not describe an exported animator"):
        exported.load(SHIPPED)
    programs = json.loads((made / "manifest.json").read_text())["config"]["programs"]
    programs["step"]["file"] = "../step.stablehlo"
    with pytest.raises(ArtefactError, match="outside"):
        exported.load(changed(made, tmp_path / "outside", programs=programs))


def test_programs_that_jax_cannot_read_are_refused(made, tmp_path, monkeypatch):
    def fail(data):
        raise ValueError("calling convention version 99")

    monkeypatch.setattr(jax.export, "deserialize", fail)
    with pytest.raises(ArtefactError, match=r"stablehlo: made by jax .* cannot read it: export it again") as caught:
        exported.load(made)
    assert "\n" not in str(caught.value)


BAD = {
    "picture": (lambda m: m.start(np.zeros((32, 32, 3), np.uint8)), r"picture uint8\[32, 32, 3\]"),
    "float picture": (lambda m: m.start(np.zeros((64, 64, 3))), "picture float64"),
    "word": (lambda m: m.start(portrait(), ["furious"]), "furious"),
    "seeds": (lambda m: m.start(portrait(), seed=[1, 2]), r"seed \[1, 2\]"),
    "seed": (lambda m: m.start(portrait(), seed=-1), "seed -1"),
    "kind of sound": (lambda m: m.start(portrait()).step(np.zeros(9, np.int16)), "int16"),
    "shape of sound": (lambda m: m.start(portrait()).step(np.zeros((2, 9))), r"\[2, 9\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_arguments(model, case):
    act, reason = BAD[case]
    with pytest.raises(ArtefactError, match=reason) as caught:
        act(model)
    assert "\n" not in str(caught.value)


def test_nothing_follows_the_end(model):
    stream = model.start(portrait())
    assert stream.end().shape == (1, 0, 64, 64, 3)
    with pytest.raises(ArtefactError, match="ended"):
        stream.step(WAVE)


@pytest.fixture
def quick(monkeypatch):
    """The command on the tiny model; the shipped one takes long to compile."""
    monkeypatch.setattr(Animator, "load", classmethod(lambda cls, weights=None: tiny()))


def test_the_command(quick, tmp_path, capsys):
    where = tmp_path / "new" / "deep"
    assert cli.main(["export", "-o", str(where), "--platforms", "cpu,tpu"]) == 0
    out = capsys.readouterr().out
    print(out)
    assert out.startswith(f"{where}: knot_forcing, 7 programs for cpu, tpu") and len(out.splitlines()) == 1
    files = {file.name for file in where.iterdir()}
    note = where / "mine.txt"
    note.write_text("mine")
    assert cli.main(["export", "-o", str(where)]) == 2 and "--overwrite" in capsys.readouterr().err
    assert cli.main(["export", "-o", str(where), "--platforms", "cpu", "--method", "live_act", "--overwrite"]) == 0
    assert exported.load(where).signature["method"] == "live_act" and note.read_text() == "mine"
    after = {file.name for file in where.iterdir()} - {note.name}
    assert not any(name in after for name in files if name.startswith("step")) and len(after) == len(files) + 1
    assert {name for name in after if "first" in name}


CONFIG = """
import ml_collections

def get_config(layers={layers}):
    config = ml_collections.ConfigDict()
    config.method = "rolling_forcing"
    config.plan = dict(sink=2, shift=3.0)
    config.dit = ml_collections.ConfigDict({dit} | dict(layers=int(layers)))
    return config
"""


def test_a_training_config_names_method_and_plan(quick, tmp_path, capsys):
    sizes = dataclasses.asdict(tiny().model.dit)
    (tmp_path / "config.py").write_text(CONFIG.format(dit=sizes, layers=sizes["layers"]))
    where, config = tmp_path / "made", str(tmp_path / "config.py")
    assert cli.main(["export", "-o", str(where), "--platforms", "cpu", "--config", config]) == 0
    signature = json.loads((where / "manifest.json").read_text())["config"]
    plan = dataclasses.asdict(METHODS["rolling_forcing"](sink=2, shift=3.0))
    assert signature["method"] == "rolling_forcing"
    assert json.dumps({name: signature["plan"][name] for name in plan}) == json.dumps(plan)
    assert plan != dataclasses.asdict(tiny().plan("rolling_forcing"))
    capsys.readouterr()
    other = tmp_path / "other"
    assert cli.main(["export", "-o", str(other), "--config", f"{config}:{2 * sizes['layers']}"]) == 2
    assert "--weights" in capsys.readouterr().err and not other.exists()


COMMANDS = {
    "no folder": ([], "-o"),
    "batch": (["-o", "new", "--batch", "0"], "1 .. 1024"),
    "platform": (["-o", "new", "--platforms", "cpu,rocket"], "cpu, cuda, tpu"),
    "kernel": (["-o", "new", "--kernel", "splash"], "--platforms tpu"),
    "unknown kernel": (["-o", "new", "--kernel", "fast"], "fast"),
    "method": (["-o", "new", "--method", "nonsense"], "nonsense"),
    "no config": (["-o", "new", "--config", "nowhere.py"], "nowhere.py"),
    "no config, but a file": (["-o", "new", "--config", "file"], "not a config"),
    "config and method": (["-o", "new", "--config", "file", "--method", "live_act"], "not allowed"),
    "a file": (["-o", "file"], "a file"),
    "full": (["-o", "model"], "--overwrite"),
    "a model": (["-o", "model", "--overwrite"], "holds a model"),
    "below a file": (["-o", "file/new"], "file/new"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_wrong_command_is_one_line_and_status_2(quick, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    shutil.copytree(SHIPPED, "model")
    before = sorted(file.name for file in tmp_path.rglob("*"))
    arguments, reason = COMMANDS[case]
    assert cli.main(["export", *arguments]) == 2
    err = capsys.readouterr().err
    print(err)
    assert err.startswith("knotjax: ") and len(err.splitlines()) == 1 and reason in err
    assert sorted(file.name for file in tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_shipped_model(tmp_path):
    """As users run it, with all of XLA's optimizations, which may round the two programs differently."""
    jax.config.update("jax_disable_most_optimizations", False)
    animator = Animator.load()
    picture = read_picture(SHIPPED.parent / "portrait.png", animator.size)
    wave = read_sound(SHIPPED.parent / "hello.wav")[: 3 * drive.SAMPLE_RATE]
    model = exported.load(export(tmp_path / "made", animator, platforms=("cpu",)))
    worst = [relative(theirs["latents"], ours["latents"]) for ours, theirs in side_by_side(model, animator, 6)]
    frames, expected = ran(model.start(picture), wave)[0], in_process(animator, picture, wave)
    off = np.abs(frames.astype(int) - expected)
    print(f"latents, relative, step by step: {', '.join(f'{one:.1e}' for one in worst)}")
    print(f"frames: {np.count_nonzero(off)} of {off.size} numbers differ, by at most {off.max()} of 255")
    assert max(worst) <= 1e-5 and frames.shape == expected.shape == (75, 128, 128, 3)
    assert off.max() <= 1 and np.count_nonzero(off) < 1e-3 * off.size
