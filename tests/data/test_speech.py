"""Speech: bundled recordings, the mouth track, and synthesis where espeak-ng is installed."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from knotjax.data import espeak, speech
from knotjax.data.make_fixtures import ASSETS, make
from knotjax.data.mouth import OPEN, shapes
from knotjax.data.sentences import TEMPLATES, WORDS
from knotjax.drive import FPS, SAMPLE_RATE
from knotjax.errors import InputError

needs_espeak = pytest.mark.skipif(not espeak.available(), reason="espeak-ng is not installed")


def loudness(wave, start, end):
    piece = wave[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    return float(np.sqrt(np.mean(np.square(piece)) + 1e-12))


def spans(said):
    ends = [start for start, _ in said.phonemes[1:]] + [said.seconds]
    return [(start, end, ipa) for (start, ipa), end in zip(said.phonemes, ends)]


def opening_inside(said, letter, margin):
    """Values of the opening in the frames whose centres lie inside `letter`, `margin` seconds from its ends."""
    frames = int(said.seconds * FPS)
    opening, _ = speech.mouth_track(said.phonemes, frames)
    centres = (np.arange(frames) + 0.5) / FPS
    inside = np.zeros(frames, bool)
    for start, end, ipa in spans(said):
        if ipa.startswith(letter):
            inside |= (centres >= start + margin) & (centres <= end - margin)
    return opening[inside]


@pytest.mark.parametrize("name", speech.FIXTURES)
def test_fixture_is_whole(name):
    said = speech.load_fixture(name)
    assert said.wave.dtype == np.float32 and 4 <= said.seconds <= 8 and 0.2 < np.abs(said.wave).max() <= 0.9
    starts = [start for start, _ in said.phonemes]
    assert starts == sorted(starts) and starts[0] >= 0 and starts[-1] < said.seconds
    assert said.text and said.voice in (*speech.TRAIN_VOICES, speech.HELD_OUT_VOICE)


def test_fixtures_are_small_and_two_are_held_out():
    size = sum((speech.FIXTURE_FOLDER / f"{name}.flac").stat().st_size for name in speech.FIXTURES)
    held_out = [name for name in speech.FIXTURES if speech.load_fixture(name).voice == speech.HELD_OUT_VOICE]
    print("bytes of FLAC", size, "held out", held_out)
    assert size < 500_000 and len(held_out) == 2


def test_demo_recording():
    said = speech.load_recording(ASSETS / "hello.wav")
    print("hello.wav", said.seconds, "s:", said.text)
    assert 6 < said.seconds < 10 and said.voice in speech.TRAIN_VOICES and len(said.phonemes) > 50


def test_missing_recordings_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no speech fixture 'nothing'.*bilabials"):
        speech.load_fixture("nothing")
    with pytest.raises(InputError, match=r"nothing\.wav does not exist"):
        speech.load_recording(tmp_path / "nothing.wav")


def test_held_out_voice_shares_no_part_with_training():
    accent, variant = speech.HELD_OUT_VOICE.split("+")
    accents, variants = map(set, zip(*(voice.split("+") for voice in speech.TRAIN_VOICES)))
    assert accent not in accents and variant not in variants


def test_mouth_closes_at_bilabials_and_opens_at_open_vowels():
    said = speech.load_fixture("bilabials")
    closed = np.concatenate([opening_inside(said, letter, 0.025) for letter in "bpm"])
    wide_open = np.concatenate([opening_inside(speech.load_fixture(name), "ɑ", 0.045) for name in speech.FIXTURES])
    print("b p m", closed.round(2), "ɑ", wide_open.round(2))
    assert len(closed) >= 10 and closed.max() < 0.3 and np.median(closed) < 0.1
    assert len(wide_open) >= 3 and wide_open.min() > 0.95


@pytest.mark.parametrize("name", speech.FIXTURES)
def test_phonemes_sound_and_pauses_do_not(name):
    said = speech.load_fixture(name)
    vowels = [loudness(said.wave, s, e) for s, e, ipa in spans(said) if ipa[:1] in tuple("aɑæeɛiɪoɔuʊəʌɜɐ")]
    pauses = [loudness(said.wave, s + 0.02, e) for s, e, ipa in spans(said) if not ipa and e - s > 0.1]
    print(name, "vowels", min(vowels), np.median(vowels), "pauses", max(pauses))
    assert np.median(vowels) > 15 * max(pauses) and min(vowels) > 4 * max(pauses)


def test_track_agrees_with_the_sound_in_time():
    total = np.zeros(9)
    for name in speech.FIXTURES:
        said = speech.load_fixture(name)
        frames = int(said.seconds * FPS)
        opening, _ = speech.mouth_track(said.phonemes, frames)
        centres = (np.arange(frames) + 0.5) / FPS
        envelope = np.array([loudness(said.wave, max(0, c - 0.045), c + 0.045) for c in centres])
        lags = range(-4, 5)
        total += [np.corrcoef(opening[8 + lag : frames - 8 + lag], envelope[8:-8])[0, 1] for lag in lags]
    best = int(total.argmax()) - 4
    print("correlation by lag", (total / len(speech.FIXTURES)).round(2), "best", best)
    assert abs(best) <= 1 and total.max() / len(speech.FIXTURES) > 0.5


def test_track_by_hand():
    # A step from closed to ɑ at 0.1 s, which is the centre of frame 2: the smoothed step is worth the share of the Hann
    # window at and after its middle there, and at 0.06 s and 0.14 s nearly nothing and nearly all.
    opening, width = speech.mouth_track(((0.0, "m"), (0.1, "ɑː")), 4)
    window = np.array([0.5 - 0.5 * np.cos(2 * np.pi * k / 18) for k in range(19)])
    window /= window.sum()
    expected = [0.0, window[17:].sum(), window[9:].sum(), window[1:].sum()]
    print(opening, expected)
    # The last phoneme ends 0.1 s after it began: frame 3 (0.14 s) is 12 ticks before that, outside the window's reach.
    np.testing.assert_allclose(opening, expected, atol=1e-6)
    np.testing.assert_array_equal(width, 0)


def test_offset_moves_the_track_by_whole_frames():
    phonemes = speech.load_fixture("story").phonemes
    opening, width = speech.mouth_track(phonemes, 100)
    later = speech.mouth_track(phonemes, 60, offset_seconds=40 / FPS)
    np.testing.assert_allclose(later[0], opening[40:], atol=1e-6)
    np.testing.assert_allclose(later[1], width[40:], atol=1e-6)
    assert opening.std() > 0.1 and width.std() > 0.1


def test_pauses_and_nothing_at_all_rest():
    for phonemes in ((), ((0.0, ""), (0.5, ""))):
        opening, width = speech.mouth_track(phonemes, 20)
        assert opening.shape == width.shape == (20,) and not opening.any() and not width.any()


@pytest.mark.parametrize(
    "ipa, expected",
    [
        ("ˈaɪ", [(1.0, 0.0, 1), (0.35, 0.7, 1)]),
        ("ɑː", [(1.0, 0.0, 2)]),
        ("tʃ", [(0.15, 0.0, 1), (0.15, -0.6, 1)]),
        ("dʒ", [(0.18, 0.0, 1), (0.15, -0.6, 1)]),
        ("ɚ", [(0.45, 0.0, 1)]),
        ("d̪", [(0.18, 0.0, 1)]),
        ("", [(0.0, 0.0, 1)]),
    ],
)
def test_shapes(ipa, expected):
    assert shapes(ipa) == expected


def test_unknown_letters_still_move_the_mouth():
    assert shapes("ꜷ")[0][0] > 0


def test_sentences_differ_and_are_short():
    said = [speech.sentence(np.random.default_rng(seed)) for seed in range(500)]
    counts = [len(text.split()) for text in said]
    print("words", min(counts), max(counts), "different", len(set(said)), "vocabulary", sum(map(len, WORDS.values())))
    assert min(counts) >= 3 and max(counts) <= 10 and len(set(said)) > 490
    assert all(text[0].isupper() and text[-1] in ".!?" and "{" not in text for text in said)
    assert speech.sentence(np.random.default_rng(7)) == said[7] and len(TEMPLATES) >= 15


@needs_espeak
def test_utterance_is_the_same_whatever_came_before():
    first = speech.utterance(3, 2.0)
    speech.utterance(4, 1.0)
    speech.synthesize("Something else.", "en-us+f5", 180, 70)
    again = speech.utterance(3, 2.0)
    print(hashlib.sha256(first.wave.tobytes()).hexdigest()[:12], first.voice, first.text)
    np.testing.assert_array_equal(first.wave, again.wave)
    assert first.phonemes == again.phonemes and first.text == again.text
    assert not np.array_equal(first.wave, speech.utterance(5, 2.0).wave)


@needs_espeak
@pytest.mark.parametrize("seconds", [0.1, 1.00003, 5.0])
def test_utterance_is_exactly_as_long_as_asked(seconds):
    said = speech.utterance(11, seconds)
    assert said.wave.shape == (round(seconds * SAMPLE_RATE),) and said.wave.dtype == np.float32
    assert not said.wave[: round(0.1 * SAMPLE_RATE)].any()
    assert all(0 <= start < seconds for start, _ in said.phonemes)


@needs_espeak
def test_utterances_vary():
    said = [speech.utterance(seed, 3.0) for seed in range(12)]
    peaks = [float(np.abs(one.wave).max()) for one in said]
    print("peaks", np.round(peaks, 2), "voices", {one.voice for one in said})
    assert 0.2 <= min(peaks) < 0.5 < max(peaks) <= 0.9 and len({one.voice for one in said}) > 6
    assert {one.voice for one in said} <= set(speech.TRAIN_VOICES)
    assert speech.utterance(1, 1.0, "held_out").voice == speech.HELD_OUT_VOICE


@needs_espeak
def test_word_lists_hold_every_class_of_the_tables():
    words = sorted({word for kind in WORDS.values() for word in kind})
    said = speech.synthesize(", ".join(words), "en-us+m3", 400)
    heard = {letter for _, ipa in said.phonemes for letter in ipa}
    print("letters heard", "".join(sorted(heard)), "missing", set(OPEN) - heard)
    assert set(OPEN) - heard == set()


@needs_espeak
def test_every_voice_is_known():
    waves = [speech.synthesize("Oh.", voice, 190).wave for voice in (*speech.TRAIN_VOICES, speech.HELD_OUT_VOICE)]
    assert len({wave.tobytes() for wave in waves}) == len(waves)


@needs_espeak
def test_voiceless_stops_begin_at_their_closure():
    said = speech.synthesize("Happy puppy, keep a paper cup.")
    closures = [loudness(said.wave, s + 0.003, s + 0.025) for s, _, ipa in spans(said)[1:] if ipa == "p"]
    print("loudness in closures of p", closures, "overall", loudness(said.wave, 0, said.seconds))
    assert len(closures) >= 5 and np.median(closures) < 0.02 * loudness(said.wave, 0, said.seconds)


@needs_espeak
def test_bundled_speech_can_be_made_again():
    made, bundled = make("questions"), speech.load_fixture("questions")
    lengths = abs(made.seconds - bundled.seconds)
    print("difference in seconds", lengths)
    # Another release of espeak-ng may say it a little differently.
    assert lengths < 0.5 and made.text == bundled.text and made.voice == bundled.voice


@needs_espeak
def test_other_users_of_the_library_do_not_block_it():
    code = (
        "import ctypes; from knotjax.data import espeak\n"
        "held = ctypes.CDLL(espeak._LIBRARIES[0])\n"
        "print([len(espeak.speak('Hello', 'en-us+m3', 160, 50)[0]) > 5000 for _ in range(3)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    print(done.stdout, done.stderr)
    assert done.stdout.strip() == "[True, True, True]"


@needs_espeak
@pytest.mark.parametrize(
    "arguments, reason",
    [
        (("Hi", "xx-nowhere"), "voice 'xx-nowhere' is unknown"),
        (("Hi", "en-us+m99"), "no variant 'm99'"),
        (("Hi", "en-us", 20), "rate 20"),
        (("Hi", "en-us", 160, 200), "pitch 200"),
    ],
)
def test_bad_requests_are_named(arguments, reason):
    with pytest.raises(InputError, match=reason) as caught:
        speech.synthesize(*arguments)
    assert "\n" not in str(caught.value)


def test_unknown_split():
    with pytest.raises(InputError, match="split 'test' is unknown"):
        speech.utterance(1, 1.0, "test")


def test_missing_library_names_the_package(monkeypatch):
    monkeypatch.setattr(espeak, "_LIBRARIES", ("libno-such-speech.so.1",))
    assert not espeak.available()
    with pytest.raises(InputError, match="apt install espeak-ng"):
        speech.synthesize("Hi")
