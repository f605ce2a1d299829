"""Tiny folders of Cityscapes' layout, for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def polygon(label, x1, y1, x2, y2, **more):
    """A rectangle whose corner pixels are x1, y1 and x2, y2."""
    return {"label": label, "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], **more}


def write_ids(path, ids):
    Image.fromarray(np.asarray(ids).astype(np.uint16)).save(path)


def write_cityscapes(folder: Path, images, split="train", size=(64, 48), ids=None):
    """Make leftImg8bit and gtFine below the folder.

    Args:
        images: name such as "aachen_000000_000019" -> objects of the polygon file.
        ids: name -> array of instance ids; None draws them from the polygons, False writes no such files.
    Returns: the two folders.
    """
    from maskrcnn_benchmark.data.datasets.cityscapes_file import Polygons

    pictures, annotations = folder / "leftImg8bit", folder / "gtFine"
    for number, (name, objects) in enumerate(images.items()):
        city = name.split("_")[0]
        for part in (pictures, annotations):
            (part / split / city).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / split / city / f"{name}_leftImg8bit.png")
        content = {"imgWidth": size[0], "imgHeight": size[1], "objects": objects}
        path = annotations / split / city / f"{name}_gtFine_polygons.json"
        path.write_text(json.dumps(content))
        if ids is not False:
            drawn = Polygons(str(path)).draw_ids() if ids is None else ids[name]
            write_ids(path.with_name(f"{name}_gtFine_instanceIds.png"), drawn)
    return str(pictures), str(annotations)
