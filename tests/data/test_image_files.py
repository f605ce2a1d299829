"""Any image file becomes 8-bit RGB, or says why it cannot."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.data.datasets.image_files import read_image

RAMP = np.linspace(0, 255, 12 * 8).reshape(8, 12).astype(np.uint8)  # 12 wide, 8 high
COLOURS = np.stack([RAMP, RAMP.T.reshape(8, 12), 255 - RAMP], axis=2)


def saved(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_modes_become_rgb(tmp_path):
    colour, grey = Image.fromarray(COLOURS), Image.fromarray(RAMP)
    transparent = colour.convert("RGBA")
    transparent.putalpha(Image.fromarray(RAMP))
    cases = [
        (colour, COLOURS),
        (grey, np.repeat(RAMP[..., None], 3, axis=2)),
        (transparent, COLOURS),  # transparency is dropped, the colours stay
        (colour.quantize(256), np.asarray(colour.quantize(256).convert("RGB"))),
        (grey.point(lambda value: 255 * (value > 99), "1"), np.repeat(255 * (RAMP > 99)[..., None], 3, axis=2)),
    ]
    for image, expected in cases:
        read = read_image(saved(tmp_path, image))
        assert read.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read), expected)


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    wide = RAMP.astype(np.uint16) * 256 + 77
    for name in ("a.png", "a.tif"):
        read = read_image(saved(tmp_path, Image.fromarray(wide), name))
        np.testing.assert_array_equal(np.asarray(read), np.repeat(RAMP[..., None], 3, axis=2))
    read = read_image(saved(tmp_path, Image.fromarray(RAMP.astype(np.float32)), "f.tif"))
    np.testing.assert_array_equal(np.asarray(read)[..., 0], RAMP)


def test_cmyk_jpeg(tmp_path):
    smooth = np.full((16, 16, 3), (200, 120, 40), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(smooth).convert("CMYK"), "a.jpg", quality=95)
    assert np.abs(np.asarray(read_image(path)).astype(int) - smooth).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed_only_where_the_size_asks_for_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(COLOURS), exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(path)), COLOURS)
    np.testing.assert_array_equal(np.asarray(read_image(path, (12, 8))), COLOURS)
    turned = {5: np.transpose(COLOURS, (1, 0, 2)), 6: np.rot90(COLOURS, -1), 8: np.rot90(COLOURS)}
    turned[7] = np.rot90(turned[5], 2)
    shown = {1: COLOURS, 2: COLOURS[:, ::-1], 3: np.rot90(COLOURS, 2), 4: COLOURS[::-1], **turned}[orientation]
    np.testing.assert_array_equal(np.asarray(read_image(path, upright=True)), shown)
    if orientation in turned:
        np.testing.assert_array_equal(np.asarray(read_image(path, (8, 12))), turned[orientation])
    else:
        with pytest.raises(OSError, match="12 x 8 pixels, but its annotations are for 8 x 12"):
            read_image(path, (8, 12))


def test_what_cannot_be_read_says_which_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jpg does not exist"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(OSError, match="text.jpg cannot be read: it is not an image of a known format"):
        read_image(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(OSError, match="empty.jpg cannot be read"):
        read_image(tmp_path / "empty.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        path = saved(tmp_path, Image.fromarray(noise), name)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(OSError, match=f"{name} cannot be read"):
            read_image(path)


def test_files_are_closed(tmp_path, recwarn):
    path = saved(tmp_path, Image.fromarray(COLOURS))
    read_image(path)
    path.unlink()
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]
