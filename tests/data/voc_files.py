"""Tiny folders of Pascal VOC's layout, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from maskrcnn_benchmark.data.datasets import PascalVOCDataset

DOG, CAT = (PascalVOCDataset.CLASSES.index(name) for name in ("dog", "cat"))


def voc_object(name="dog", box=(3, 4, 12, 11), difficult=0):
    """An object element; `box` counts pixels from 1, and its sides are written as they are."""
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def voc_xml(objects, size=(40, 30), file_name="", head=""):
    width, height = size
    return (
        f"{head}<annotation><filename>{file_name}</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def write_voc(folder: Path, images, split="train", size=(40, 30), pixels=None):
    """`images`: id -> object elements, or None for an image without an XML file. Returns the folder."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    width, height = size
    for number, (identity, objects) in enumerate(images.items()):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise if pixels is None else pixels[number]).save(folder / "JPEGImages" / f"{identity}.jpg")
        if objects is not None:
            (folder / "Annotations" / f"{identity}.xml").write_text(voc_xml(objects, size, f"{identity}.jpg"))
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{identity}\n" for identity in images))
    return folder
