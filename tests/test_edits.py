"""Timed edits."""

import numpy as np
import pytest

from knotjax import drive
from knotjax.edits import Edit, Script
from knotjax.errors import InputError


def rows(words):
    """Word numbers as their own rows."""
    return np.asarray(words, np.float64)[:, None]


def numbers(emotion, action):
    return drive.word_ids(emotion, action).astype(float)[:, None]


def test_words_change_at_the_block_after_their_time_and_others_stay():
    script = Script([Edit(2.0, action="nod"), Edit(1.0, emotion="happy")], "sad", None, rows)
    assert [script.at(t).text.tolist() for t in (0.0, 0.9)] == [numbers("sad", None).tolist()] * 2
    moment = script.at(1.1)
    assert moment.text.tolist() == numbers("happy", None).tolist() and moment.switch == "anchor"
    assert script.at(1.5).switch is None
    assert script.at(2.0).text.tolist() == numbers("happy", "nod").tolist()


def test_a_ramp_goes_from_the_old_to_the_new_and_switches_at_its_end():
    script = Script([Edit(1.0, emotion="surprised", ramp=2.0, strength=3.0, policy="recache")], None, None, rows)
    goal = drive.word_ids("surprised", None)[0]
    seen = [script.at(t) for t in (0.5, 1.0, 2.0, 3.0, 4.0)]
    np.testing.assert_allclose([moment.text[0, 0] for moment in seen], [0, 0, goal / 2, goal, goal])
    np.testing.assert_allclose([moment.strength for moment in seen], [1, 1, 2, 3, 3])
    assert [moment.switch for moment in seen] == [None, None, None, "recache", None]


def test_an_edit_in_the_middle_of_a_ramp_starts_from_its_goal():
    script = Script([Edit(0.0, emotion="happy", ramp=10.0), Edit(1.0, emotion="sad")], None, None, rows)
    script.at(0.5)
    assert script.at(1.0).text.tolist() == numbers("sad", None).tolist()


def test_a_new_portrait_is_encoded_even_when_the_past_is_kept():
    picture = np.zeros((8, 8, 3), np.uint8)
    moment = Script([Edit(0.0, picture=picture, policy="keep")], None, None, rows).at(0.0)
    assert moment.picture is picture and moment.switch == "anchor"


def test_parse():
    assert Edit.parse("2.5 happy") == Edit(2.5, emotion="happy")
    assert Edit.parse(" 4 nod 0.5 ") == Edit(4.0, action="nod", ramp=0.5)
    for text in ("", "happy", "2 happy 1 1", "x happy", "2 happy x"):
        with pytest.raises(InputError, match="SECONDS WORD"):
            Edit.parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit(-1.0, emotion="happy"), "0 s or more"),
        (lambda: Edit(float("nan")), "0 s or more"),
        (lambda: Edit(1.0, ramp=-1.0), "ramp"),
        (lambda: Edit(1.0, strength=9.0), "strength 9.0"),
        (lambda: Edit(1.0, policy="forget"), "policy 'forget'"),
        (lambda: Edit(1.0, emotion="bored"), "unknown word 'bored'"),
        (lambda: Edit.parse("1 bored"), "unknown word 'bored'"),
    ],
)
def test_impossible_edits_are_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
