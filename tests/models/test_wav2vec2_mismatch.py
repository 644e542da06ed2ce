"""The command that compares live sound features with those of the whole clip."""

from experiments.live_sound.mismatch import BLOCK, mismatch, streamed, whole_clip
from knotjax.drive import FRAME
from knotjax.models.wav2vec2 import Wav2Vec2
from tests.models.encoders import SHAPES, WAV2VEC2, random_params
from tests.models.test_wav2vec2_live import speech


def test_more_context_is_nearer_and_all_of_it_is_exact():
    model, params = Wav2Vec2(WAV2VEC2["large"]), random_params(SHAPES["wav2vec2_large"])
    wave = 3.0 * speech(4) + 1.0
    clip, starts = whole_clip(model, params, wave), range(0, 4 * 25 - BLOCK, BLOCK)
    assert clip.shape[1] == len(wave) // FRAME

    def figures(left, right, own=False):
        live = streamed(model, params, wave, starts, left, right, own)
        return mismatch(live, clip[:, : live.shape[1]])

    exact, near, far, scaled = figures(4, 4), figures(1, 1), figures(0.2, 0), figures(4, 4, own=True)
    assert max(exact) < 1e-5 and max(scaled) < 1e-5
    assert 1e-3 < near[1] < far[1] and near[0] < 1e-5 < far[0]
    assert figures(1, 1, own=True)[0] > 1e-3  # the beginning does not know how loud the rest will be
