"""array_record files, and the tensorflow-datasets builder, which must not load TensorFlow."""

import subprocess
import sys

import grain
import numpy as np
import pytest

from knotjax.data import records
from knotjax.errors import InputError


def sample(seed):
    rng = np.random.default_rng(seed)
    return {"group": rng.normal(size=(3, 2, 2, 4)).astype(np.float16), "words": np.asarray([seed, 1], np.int32)}


@pytest.fixture
def folder(tmp_path):
    assert records.write(tmp_path / "records", map(sample, range(7)), per_file=3, made_by="me") == 7
    return tmp_path / "records"


def test_round_trip_in_any_order(folder):
    source = records.Records(folder)
    assert source.made_by == "me" and len(source) == 7 and len(list(folder.glob("*.array_record"))) == 3
    for number in (6, 0, 3, 3):
        found, expected = source[number], sample(number)
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name])
    data = grain.MapDataset.source(source).seed(0).shuffle().repeat().batch(2).to_iter_dataset()
    whole = [next(it)["words"] for it in [iter(data)] for _ in range(5)]
    first = iter(data)
    for _ in range(2):
        next(first)
    again = iter(data)
    again.set_state(first.get_state())
    assert [next(again)["words"].tolist() for _ in range(3)] == [words.tolist() for words in whole[2:]]


def test_unfinished_and_existing_records_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="exist"):
        records.write(folder, [])

    def failing():
        yield sample(0)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        records.write(tmp_path / "half", failing())
    with pytest.raises(InputError, match=r"no readable records\.json"):
        records.Records(tmp_path / "half")
    assert records.write(tmp_path / "half", map(sample, range(2))) == 2
    assert len(records.Records(tmp_path / "half")) == 2
    (folder / "00001.array_record").unlink()
    with pytest.raises(InputError, match=r"lack 00001\.array_record"):
        records.Records(folder)


BUILD = """
import sys
import grain
import numpy as np
from knotjax.data import clips
from knotjax.data.knot_portraits import KnotPortraits
from knotjax.data.speech import load_fixture
said = load_fixture("vowels")
sizes = dict(train=2, held_out=1, seconds=0.4, size=32, utterance=said)
builder = KnotPortraits(data_dir=sys.argv[1], file_format="array_record", **sizes)
builder.download_and_prepare()
import tensorflow_datasets as tfds
again = tfds.builder_from_directory(builder.data_dir)
source = again.as_data_source("train")
assert len(source) == 2 and len(again.as_data_source("held_out")) == 1
batch = next(iter(grain.MapDataset.source(source).batch(2).to_iter_dataset()))
assert batch["frames"].shape == (2, 10, 32, 32, 3), batch["frames"].shape
for row in range(2):
    clip = clips.make_clip(int(batch["seed"][row]), 0.4, size=32, utterance=said)
    for name in ("frames", "wave", "words", "mouth_box"):
        assert np.array_equal(batch[name][row], getattr(clip, name)), name
assert "tensorflow" not in sys.modules
"""


def test_the_builder_needs_no_tensorflow(tmp_path):
    pytest.importorskip("importlib_resources")  # tensorflow-datasets needs it and does not say so
    done = subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
