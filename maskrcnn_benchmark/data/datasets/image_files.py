"""Read image files, with errors that name the file, and check early that all of them exist."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

_EXIF_ORIENTATION = 0x0112
_NUM_NAMED = 5  # missing files that a message names
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(
    path: str | os.PathLike[str], size_wh: tuple[int, int] | None = None, *, upright: bool = False
) -> Image.Image:
    """Read an image file of any mode (grey, palette, CMYK, with transparency, 16 bits) as 8-bit RGB.

    Annotations usually refer to the pixels as they are stored. So the Exif orientation is ignored, unless the image has
    the expected size only after it is applied.

    Args:
        size_wh: size that the annotations were made for, in pixels; None for the size of the file.
        upright: apply the Exif orientation, as viewers do; for images without annotations.
    Raises: FileNotFoundError; OSError if the file is not an image, is damaged, or has another size.
    """
    with _open(path) as image:
        image.load()
        if size_wh is not None and image.size != tuple(size_wh):
            image = _turned(image, size_wh)
        elif upright:
            image = ImageOps.exif_transpose(image)
        rgb = to_rgb(image)
    if size_wh is not None and rgb.size != tuple(size_wh):
        raise OSError(
            f"image file {os.fspath(path)} is {rgb.width} x {rgb.height} pixels, "
            f"but its annotations are for {size_wh[0]} x {size_wh[1]}"
        )
    return rgb


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height in the header of an image file. Raises: FileNotFoundError, OSError."""
    with _open(path) as image:
        return image.size


def read_ids(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """The values (H, W) of an image file with one channel of 8, 16 or 32 bits, such as labels or instance ids.

    Raises: FileNotFoundError; OSError if the file is not an image, is damaged, or has several channels.
    """
    with _open(path) as image:
        values = np.asarray(image)
        if values.ndim != 2 or values.dtype.kind not in "ui":
            raise OSError(f"it has the mode {image.mode}, not one channel of whole numbers")
    return values.astype(np.int32)


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The opened image; all errors of the block name the file."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"image file {os.fspath(path)} does not exist") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # Pillow raises all of these for damaged files, SyntaxError too
        cause = "it is not an image of a known format" if isinstance(error, UnidentifiedImageError) else error
        raise OSError(f"image file {os.fspath(path)} cannot be read: {cause}") from error


def check_files_exist(root: str, names: Iterable[str], source: str) -> None:
    """Raise FileNotFoundError unless every name is a file under `root`. Lists each folder once and opens no file.

    Args:
        source: the file that lists the names, for the message.
    """
    listings: dict[str, set[str]] = {}
    missing, total = [], 0
    for name in names:
        total += 1
        folder, base = os.path.split(name)
        if folder not in listings:
            listings[folder] = list_folder(os.path.join(root, folder))
        if base not in listings[folder]:
            missing.append(name)
    if missing:
        named = ", ".join(missing[:_NUM_NAMED]) + (", ..." if len(missing) > _NUM_NAMED else "")
        raise FileNotFoundError(
            f"{len(missing)} of the {total} images that {source} lists are not in {os.path.abspath(root)}: {named}"
        )


def list_folder(path: str) -> set[str]:
    """The names in a folder; none if it does not exist."""
    try:
        with os.scandir(path) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _turned(image: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    """The image with its Exif orientation applied if it then has this size, else unchanged."""
    if image.size[::-1] == tuple(size_wh) and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8):
        return ImageOps.exif_transpose(image)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB."""
    if image.mode in _SIXTEEN_BITS:  # Pillow would clip values at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.nan_to_num(np.asarray(image)).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
