"""Every score on videos and tracks whose answer is known beforehand, and how scores are written out."""

import json

import numpy as np
import pytest

from knotjax.evaluation import metrics, strips, tables, tracks


def grey(levels, size=32):
    """A video uint8 [T, size, size, 3] of flat frames."""
    return np.broadcast_to(np.asarray(levels, np.uint8)[:, None, None, None], (len(levels), size, size, 3)).copy()


def lightness(level):
    """L of a grey level, from the definition."""
    linear = ((level / 255 + 0.055) / 1.055) ** 2.4
    return 116 * np.cbrt(linear) - 16


def speech(frames, seed=0):
    """A smooth track in 0..1, float64 [T]."""
    noise = np.random.default_rng(seed).standard_normal(frames + 8)
    smooth = np.convolve(noise, np.hanning(9), "valid")
    return (smooth - smooth.min()) / np.ptp(smooth)


def texture(frames, seed=0, size=32):
    picture = np.random.default_rng(seed).integers(60, 200, (size, size, 3), np.uint8)
    return np.repeat(picture[None], frames, 0)


def test_psnr_of_a_constant_error():
    a, b = grey([100] * 130), grey([110] * 130)
    print("psnr", metrics.psnr(a, b))
    assert metrics.psnr(a, b) == pytest.approx(20 * np.log10(255 / 10), abs=1e-6)
    assert metrics.psnr(a, a) == float("inf")


def test_psnr_pools_the_squared_error_over_frames():
    a, b = grey([100, 100]), grey([100, 110])
    assert metrics.psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 50), abs=1e-6)


def test_psnr_box_follows_the_frames():
    a, b = grey([100] * 70), grey([100] * 70)
    box = np.stack([[x, 4, x + 6, 9] for x in np.arange(70) % 20]).astype(np.float32)
    for t, (x0, y0, x1, y1) in enumerate(box.astype(int)):
        b[t, y0:y1, x0:x1] = 120
    inside, whole = metrics.psnr(a, b, box), metrics.psnr(a, b)
    print("inside", inside, "whole", whole)
    assert inside == pytest.approx(20 * np.log10(255 / 20), abs=1e-6)
    assert whole == pytest.approx(inside + 10 * np.log10(32 * 32 / 30), abs=1e-6)
    with pytest.raises(ValueError, match="no pixel"):
        metrics.psnr(a, b, np.array([5, 5, 5, 9]))


def test_psnr_refuses_what_it_would_misread():
    with pytest.raises(ValueError, match="uint8"):
        metrics.psnr(np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr(grey([1, 2]), grey([1, 2, 3]))


def test_lab_of_known_colours():
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [119, 119, 119]], np.uint8)
    known = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    known += [[lightness(119), 0, 0]]
    np.testing.assert_allclose(metrics.lab(colours), known, atol=0.02)


def test_colour_drift_of_a_ramp():
    frames, start, end = 200, 120, 140
    levels = np.round(np.linspace(start, end, frames)).astype(np.uint8)
    truth, mask = grey([start] * frames), np.zeros((32, 32), bool)
    mask[:8] = True
    video = grey(levels)
    video[:, 8:] = 0  # outside the mask nothing counts
    drift = metrics.colour_drift(video, truth, mask)
    error = lightness(levels.astype(float)) - lightness(start)
    print(drift)
    assert drift.first == pytest.approx(error[:40].mean(), abs=1e-2)
    assert drift.last == pytest.approx(error[-40:].mean(), abs=1e-2)
    assert drift.drift == pytest.approx(drift.last - drift.first)
    assert drift.per_minute == pytest.approx((lightness(end) - lightness(start)) / (frames / 25 / 60), rel=0.02)


def test_constant_colour_error_does_not_drift():
    drift = metrics.colour_drift(grey([130] * 50), grey([120] * 50), np.ones((32, 32), bool))
    assert drift.first == pytest.approx(lightness(130) - lightness(120), abs=1e-2)
    assert drift.drift == pytest.approx(0, abs=1e-9) and drift.per_minute == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="mask"):
        metrics.colour_drift(grey([1, 2]), grey([1, 2]), np.zeros((32, 32), bool))


def test_face_drift_compares_mean_colours_in_a_box():
    frames = 100
    truth, levels = grey([120] * frames), np.round(np.linspace(120, 140, frames)).astype(np.uint8)
    video = grey(levels)
    video[:, 8:] = 0  # outside the box nothing counts
    drift = metrics.face_drift(video, truth, (2, 1, 20, 8))
    error = lightness(levels.astype(float)) - lightness(120)
    assert drift.first == pytest.approx(error[:20].mean(), abs=1e-2)
    assert drift.last == pytest.approx(error[-20:].mean(), abs=1e-2)
    swapped = truth.copy()
    swapped[:, 2, 2:20:2], swapped[:, 2, 3:20:2] = 90, 150  # a pattern that moves about keeps its mean colour
    turned = np.roll(swapped, 2, axis=2)
    assert metrics.face_drift(turned, swapped, (4, 1, 18, 8)).last == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="box"):
        metrics.face_drift(video, truth, (5, 5, 5, 9))


def test_flickering_and_adjacent_difference():
    steps = np.tile([100, 110], 80)
    assert metrics.adj_l1(grey(steps)) == pytest.approx(10 / 255)
    assert metrics.temporal_flickering(grey(steps)) == pytest.approx((255 - 10) / 255)
    assert metrics.temporal_flickering(texture(10)) == 1
    with pytest.raises(ValueError, match="at least 2"):
        metrics.adj_l1(grey([1]))


def test_motion_energy():
    truth, half = grey(np.tile([100, 120], 30)), grey(np.tile([100, 110], 30))
    assert metrics.motion_energy_ratio(truth, truth) == 1
    assert metrics.motion_energy_ratio(half, truth) == pytest.approx(0.5)
    assert metrics.motion_energy_ratio(texture(60), truth) == 0
    assert np.isnan(metrics.motion_energy_ratio(truth, grey([100] * 60)))


def test_sharpness_drift_sees_late_blur():
    sharp = texture(100)
    late = sharp.copy()
    part = late[80:].astype(np.float32)
    late[80:] = np.round((part + np.roll(part, 1, 2)) / 2).astype(np.uint8)
    ratio = metrics.sharpness_drift(late)
    print("sharpness of the blurred end", ratio)
    assert metrics.sharpness_drift(sharp) == 1
    assert 0.2 < ratio < 0.8  # white noise averaged over two pixels keeps half its energy, less of it in the high band
    assert metrics.sharpness_drift(late[::-1]) == pytest.approx(1 / ratio)
    assert np.isnan(metrics.sharpness_drift(grey([100] * 20)))


def test_boundary_ratio_of_known_jumps():
    small = 50 + np.arange(120) % 2 + np.where((np.arange(120) // 12) % 2, 3, 0)
    result = metrics.boundary_ratios(grey(small))
    change = np.abs(np.diff(small))
    phase = np.arange(1, 120) % 12
    expected = change[phase == 0].mean() / change[phase > 0].mean()
    print(result.phases.round(3), result.excess)
    assert result.phases[0] == pytest.approx(expected, rel=1e-5) and expected > 2
    assert result.excess > 2
    assert np.argmax(metrics.boundary_ratios(grey(small), start=5).phases) == 7


def test_boundary_excess_ignores_the_period_of_the_codec():
    number = np.arange(145)
    wobble = 50 + number % 2
    codec = wobble + np.where((number // 4) % 2, 6, 0)  # every latent edge jumps, chunk joins included
    result = metrics.boundary_ratios(grey(codec))
    print("R_0", result.phases[0], "excess", result.excess)
    assert result.phases[0] > 2
    assert result.excess == pytest.approx(1, abs=0.15)
    even = metrics.boundary_ratios(grey(wobble))
    np.testing.assert_allclose(even.phases, 1, atol=1e-6)


def test_boundary_low_pass_sees_a_jump_under_noise():
    rng = np.random.default_rng(0)
    frames = 241
    jump = np.repeat(rng.normal(0, 3, frames // 12 + 1), 12)[:frames]
    video = 128 + jump[:, None, None, None] + rng.normal(0, 15, (frames, 32, 32, 3))
    video = np.clip(np.round(video), 0, 255).astype(np.uint8)
    low, full = metrics.boundary_ratios(video), metrics.boundary_ratios(video, low_pass=False)
    print("low-pass R_0", low.phases[0], "full", full.phases[0])
    assert low.phases[0] > 1.3 and low.excess > 1.3
    assert full.phases[0] < 1.1


def test_boundary_refuses_too_little():
    with pytest.raises(ValueError, match="too few"):
        metrics.boundary_ratios(grey([1] * 20))
    with pytest.raises(ValueError, match="multiple"):
        metrics.boundary_ratios(grey([1] * 40), period=10)
    assert np.isnan(metrics.boundary_ratios(grey([1] * 40)).excess)


def test_correlation_and_gain():
    truth = speech(250)
    assert tracks.correlation(0.3 + 0.5 * truth, truth) == pytest.approx(1)
    assert tracks.gain(0.3 + 0.5 * truth, truth) == pytest.approx(0.5)
    assert tracks.correlation(1 - truth, truth) == pytest.approx(-1)
    frozen = np.full(250, 0.4)
    assert tracks.correlation(frozen, truth) == 0 and tracks.gain(frozen, truth) == pytest.approx(0)
    assert np.isnan(tracks.gain(truth, frozen))
    with pytest.raises(ValueError, match="same frames"):
        tracks.correlation(truth, truth[1:])


def test_pooling_charges_wrong_levels():
    a, b = speech(100, 1), speech(100, 2)
    right, wrong = tracks.correlation([a, b], [a, b]), tracks.correlation([a, b + 1], [a, b])
    print("pooled", right, wrong)
    assert right == pytest.approx(1) and wrong < 0.7
    assert tracks.gain([a, 0.5 * b], [a, b]) < 0.95


@pytest.mark.parametrize("lag", [-7, -1, 0, 3, 12])
def test_best_lag(lag):
    long = speech(330, 3)
    truth, track = long[40:290], long[40 - lag : 290 - lag]
    assert tracks.best_lag(0.2 + 0.4 * track, truth) == lag


def test_best_lag_of_a_frozen_mouth_is_none():
    assert tracks.best_lag(np.full(100, 0.5), speech(100)) is None
    with pytest.raises(ValueError, match="at least 26"):
        tracks.best_lag(speech(20), speech(20))


def test_silence_opening():
    silent = np.arange(10) < 4
    assert tracks.silence_opening(np.where(silent, 0.25, 0.9), silent) == pytest.approx(0.25)
    assert np.isnan(tracks.silence_opening(np.ones(10), np.zeros(10, bool)))


def test_bootstrap_interval_of_a_mean():
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = tracks.bootstrap_ci(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    print(interval, half)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.mean == pytest.approx(half, rel=0.15)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.15)
    assert tracks.bootstrap_ci(values) == interval
    assert tracks.bootstrap_ci([3.0]) == (3, 3, 3)
    with pytest.raises(ValueError, match="at least one"):
        tracks.bootstrap_ci([])


def test_bootstrap_of_a_pooled_score():
    rng = np.random.default_rng(1)
    pairs = [(truth + rng.normal(0, noise, 60), truth) for noise in (0.05, 0.3, 0.1) for truth in [speech(60)]]

    def pooled(chosen):
        return tracks.correlation([a for a, _ in chosen], [b for _, b in chosen])

    interval = tracks.bootstrap_ci(pairs, pooled, samples=200)
    alone = [tracks.correlation(*pair) for pair in pairs]
    print(interval, alone)
    assert interval.mean == pytest.approx(pooled(pairs))
    assert min(alone) - 1e-9 <= interval.low < interval.mean < interval.high <= max(alone) + 1e-9
    missing = tracks.bootstrap_ci([float("nan")] * 3)
    assert np.isnan(missing.mean) and np.isnan(missing.low)


def test_table_cells():
    rows = {
        "ours": {"r": tracks.Interval(0.9, 0.85, 0.94), "PSNR": 24.61, "clips": 8},
        "frozen": {"r": 0.0, "PSNR": float("inf"), "drift": float("nan")},
    }
    text = tables.table(rows, title="model", digits={"PSNR": 1})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    print(text)
    assert cells[0] == ["model", "r", "PSNR", "clips", "drift"]
    assert set("".join(cells[1])) == {"-", ":"}
    assert cells[2] == ["ours", "0.90 [0.85, 0.94]", "24.6", "8", "-"]
    assert cells[3] == ["frozen", "0.00", "inf", "-", "-"]
    assert len({len(line) for line in text.splitlines()}) == 1
    plain = tables.table(rows, markdown=False)
    assert "|" not in plain and len(plain.splitlines()) == 3
    with pytest.raises(ValueError, match="no rows"):
        tables.table({})


def test_dump_is_strict_json(tmp_path):
    path = tmp_path / "results.json"
    drift = metrics.ColourDrift(1.0, 2.0, 1.0, float("nan"))
    results = {
        "r": tracks.Interval(np.float64(0.9), 0.8, 1.0),
        "drift": drift,
        "psnr": float("inf"),
        "phases": np.arange(2),
    }
    tables.dump(path, results, {"steps": 4, "masked": ("pose",)}, range(3))

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    loaded = json.loads(path.read_text(), parse_constant=refuse)
    assert loaded["seeds"] == [0, 1, 2] and loaded["clips"] == 3 and loaded["knotjax"]
    assert loaded["config"] == {"steps": 4, "masked": ["pose"]}
    assert loaded["results"]["r"] == {"mean": 0.9, "low": 0.8, "high": 1.0}
    assert loaded["results"]["drift"]["per_minute"] is None and loaded["results"]["psnr"] == "inf"
    assert loaded["results"]["phases"] == [0, 1]
    with pytest.raises(TypeError, match="object"):
        tables.dump(path, {"bad": object()}, {}, [])
    assert json.loads(path.read_text()) == loaded and list(tmp_path.iterdir()) == [path]


def test_strip_shows_the_asked_frames():
    video, reference = grey(np.arange(100, 150)), grey([7])
    sheet = strips.strip([video, reference], [0.0, 1.0], ["truth", "reference"])
    print("sheet", sheet.shape)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    for level, count in ((100, 1), (125, 1), (7, 2)):
        assert (sheet == level).all(-1).sum() == pytest.approx(
            count * 32 * 32, abs=40
        )  # letters may hold the level too
    with pytest.raises(ValueError, match="lasts 2 s"):
        strips.strip([video], [2.5], ["truth"])


def test_plot_writes_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "opening.png"
    strips.plot_opening(path, speech(50, 1), speech(50, 2), "clip")
    with strips.Image.open(path) as picture:
        assert picture.size[0] > 800 and len(picture.convert("L").getcolors()) > 20
    with pytest.raises(ValueError, match="same frames"):
        strips.plot_opening(path, speech(50), speech(49))
