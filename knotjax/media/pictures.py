"""Reading the portrait: any common picture file to one square RGB array."""

import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from knotjax.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 40_000_000
MIN_SIDE = 16
BACKGROUND = (128, 128, 128)  # what shows through transparent pixels


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


def read_picture(path: str | os.PathLike, size: int = 128) -> np.ndarray:
    """Read a PNG, JPEG or WebP file as one square picture, uint8 [size, size, 3].

    EXIF rotation is applied, transparent pixels are laid over mid grey, every colour mode becomes RGB, and the centre
    square is resized with a Lanczos filter. Animated files give their first frame.

    Raises:
      InputError: missing, empty, damaged, cut short, another format, above 20 MiB or 40 million pixels, or a side
        under 16 pixels.
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
        square = _eight_bit(image)
    width, height = square.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = square.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    pixels = np.asarray(square)  # [size, size, 3 or 4]
    if pixels.shape[-1] == 4:
        colour, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255.0
        colour = colour + (1.0 - alpha) * np.array(BACKGROUND, np.float32)
        pixels = np.clip(colour + 0.5, 0, 255).astype(np.uint8)
    return np.array(pixels)
