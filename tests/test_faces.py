"""Where the portrait is cut out of its picture."""

import numpy as np
import pytest
from PIL import Image

from knotjax.errors import InputError
from knotjax.media import read_picture
from knotjax.media.pictures import FACE_HEIGHT, FACE_SHARE, face_crop

FACE = (172, 66, 100, 100)  # of the astronaut, in pixels


@pytest.fixture
def photo(tmp_path):
    data = pytest.importorskip("skimage.data")
    path = tmp_path / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


def difference(one, other) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def test_a_face_is_found_and_cut_out(photo):
    found, given = read_picture(photo), read_picture(photo, face_box=FACE)
    centre = read_picture(photo, face_box=(128, 128, 256, 256))
    print(f"found against given box {difference(found, given):.1f}, against the centre {difference(found, centre):.1f}")
    assert difference(found, given) < 12 < 40 < difference(found, centre)


def test_a_face_in_a_turned_photo(photo):
    image, turned = Image.open(photo), photo.with_name("turned.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.rotate(90, expand=True).save(turned, exif=exif, quality=95)
    assert difference(read_picture(turned), read_picture(photo)) < 20  # the box may move by a pixel or two


def test_the_whole_picture_without_crop(tmp_path):
    wide = np.full((40, 80, 3), 200, np.uint8)
    path = tmp_path / "wide.png"
    Image.fromarray(wide).save(path)
    picture = read_picture(path, 64, crop=False)
    assert (picture[20:44] == 200).all() and (picture[:14] == 128).all() and (picture[-14:] == 128).all()
    Image.fromarray(np.dstack([wide, np.full((40, 80), 255, np.uint8)])).save(path)
    assert np.array_equal(read_picture(path, 64, crop=False), picture)


@pytest.mark.parametrize("box", [(100, 50, 40, 60), (0, 0, 50, 50), (350, 250, 50, 50), (0, 0, 400, 300)])
def test_the_crop_is_a_square_inside_the_picture_around_the_face(box):
    left, top, side = face_crop(box, 400, 300)
    assert 0 <= left <= left + side <= 400 + 1e-9 and 0 <= top <= top + side <= 300 + 1e-9
    assert side == min(300, max(box[2:]) / FACE_SHARE)
    if box == (100, 50, 40, 60):
        assert (left + side / 2, top + FACE_HEIGHT * side) == pytest.approx((120, 80))


@pytest.mark.parametrize("box", [(-1, 0, 50, 50), (0, 0, 5, 50), (20, 20, 50, 30), (0, 0, 65, 64)])
def test_boxes_outside_the_picture_are_refused(tmp_path, box):
    Image.new("RGB", (64, 64)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"face box .* inside .*small.png' of 64x64"):
        read_picture(tmp_path / "small.png", face_box=box)
