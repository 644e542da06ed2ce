"""Reading the portrait: any common picture file to one square RGB array, with the face where the model expects it."""

import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from knotjax.errors import InputError
from knotjax.media.faces import find_face

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 40_000_000
MIN_SIDE = 16
BACKGROUND = (128, 128, 128)  # what shows through transparent pixels and beside a picture that is not cropped
FACE_SHARE = 0.45  # of the crop's side, that a face box takes
FACE_HEIGHT = 0.48  # where its centre stands, from the top

Box = tuple[float, float, float, float]  # left, top, width, height in pixels


def regular_size(path: Path, kind: str) -> int:
    """Bytes of the regular file `path`, or an InputError that calls it a `kind`."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{kind} {str(path)!r} cannot be opened ({reason}): check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{kind} {str(path)!r} is not a file: give the path of a {kind} file")
    if status.st_size == 0:
        raise InputError(f"{kind} {str(path)!r} is empty (0 bytes): give another file")
    return status.st_size


def _open(path: Path) -> Image.Image:
    """Open and check the header; pixels are still undecoded."""
    size = regular_size(path, "picture")
    name = f"picture {str(path)!r}"
    if size > MAX_BYTES:
        raise InputError(f"{name} is {size / 2**20:.0f} MiB: give one of at most {MAX_BYTES // 2**20} MiB")
    too_large = f"has more than {MAX_PIXELS // 1_000_000} million pixels: make it smaller"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is tighter
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise InputError(f"{name} {too_large}") from None
    except PermissionError:
        raise InputError(f"{name} cannot be opened (permission denied): make it readable") from None
    except Exception:  # damaged headers surface as many types, from struct.error to SyntaxError
        raise InputError(f"{name} is not a usable PNG, JPEG or WebP: save it again as PNG") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise InputError(f"{name} ({width}x{height}) {too_large}")
    if min(width, height) < MIN_SIDE:
        image.close()
        raise InputError(f"{name} is {width}x{height} pixels: give one of at least {MIN_SIDE} pixels a side")
    return image


def check_picture(path: str | os.PathLike) -> None:
    """Check from its header alone that `path` is a picture `read_picture` will try to decode.

    Raises:
      InputError: missing, empty, another format, or outside the limits.
    """
    _open(Path(path)).close()


def _eight_bit(image: Image.Image) -> Image.Image:
    """Any mode to RGB, or to premultiplied RGBA where pixels may be transparent."""
    if image.mode.startswith(("I", "F")):  # 16-bit grey: convert() would clip it to white instead of scaling
        grey = np.asarray(image).astype(np.float32) / 257.0
        image = Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8), "L")
    if image.has_transparency_data:
        return image.convert("RGBA").convert("RGBa")  # resizing must not bleed the colour of invisible pixels
    return image.convert("RGB")


def face_crop(box: Box, width: int, height: int) -> tuple[float, float, float]:
    """The square around a face box, as left, top and side: as large as wished, as far as the picture goes."""
    left, top, wide, high = box
    side = min(max(wide, high) / FACE_SHARE, width, height)
    x = min(max(left + wide / 2 - side / 2, 0.0), width - side)
    y = min(max(top + high / 2 - FACE_HEIGHT * side, 0.0), height - side)
    return x, y, side


def _check_box(box: Box, width: int, height: int, name: str) -> None:
    left, top, wide, high = box
    if min(left, top) < 0 or min(wide, high) < MIN_SIDE or left + wide > width or top + high > height:
        raise InputError(
            f"face box {left:g},{top:g},{wide:g},{high:g}: give x,y,width,height in pixels, at least {MIN_SIDE} large, "
            f"inside {name} of {width}x{height}"
        )


def _crop(square: Image.Image, size: int, face_box: Box | None, crop: bool, name: str) -> tuple[float, float, float]:
    """Left, top and side of the square to take; it may reach beyond the picture."""
    width, height = square.size
    if face_box is not None:
        _check_box(face_box, width, height, name)
    elif not crop:
        side = max(width, height)
        return (width - side) / 2, (height - side) / 2, side
    elif (width, height) != (size, size):  # a picture of the model's own size needs no search
        face_box = find_face(np.asarray(square.convert("RGB")))
    if face_box is not None:
        return face_crop(face_box, width, height)
    side = min(width, height)
    return (width - side) / 2, (height - side) / 2, side


def read_picture(
    path: str | os.PathLike, size: int = 128, face_box: Box | None = None, crop: bool = True
) -> np.ndarray:
    """Read a PNG, JPEG or WebP file as one square picture, uint8 [size, size, 3].

    EXIF rotation is applied, transparent pixels are laid over mid grey, every colour mode becomes RGB, and a square is
    resized with a Lanczos filter: the one around the largest face, where scikit-image is installed and finds one; else
    the centre. Animated files give their first frame.

    Args:
      face_box: left, top, width and height in pixels of the upright picture, instead of the search.
      crop: without it the whole picture is shown, with grey bands to make it square.

    Raises:
      InputError: missing, empty, damaged, cut short, another format, above 20 MiB or 40 million pixels, a side
        under 16 pixels, or a face box outside the picture.
    """
    path = Path(path)
    with _open(path) as image:
        try:
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
        except MemoryError:
            raise
        except Exception:  # each decoder has its own way of giving up
            raise InputError(f"picture {str(path)!r} is damaged or cut short: save or download it again") from None
        picture = _eight_bit(image)
    left, top, side = _crop(picture, size, face_box, crop, f"picture {str(path)!r}")
    if side > min(picture.size):
        banded = Image.new(picture.mode, (round(side), round(side)), BACKGROUND + (255,) * (picture.mode == "RGBa"))
        banded.paste(picture, (round(-left), round(-top)))
        picture, left, top = banded, 0, 0
    square = picture.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    pixels = np.asarray(square)  # [size, size, 3 or 4]
    if pixels.shape[-1] == 4:
        colour, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255.0
        colour = colour + (1.0 - alpha) * np.array(BACKGROUND, np.float32)
        pixels = np.clip(colour + 0.5, 0, 255).astype(np.uint8)
    return np.array(pixels)
