"""Read annotation files of Pascal VOC: one XML file per image."""

from __future__ import annotations

import os
import xml.parsers.expat
from dataclasses import dataclass
from xml.etree.ElementTree import Element, TreeBuilder

_LARGEST_SIDE = 2**31 - 1  # of an image, in pixels
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """An object of an annotation file, not validated.

    Attributes:
        name: of the class, in lower case; empty if it is missing.
        box: the texts of xmin, ymin, xmax and ymax as numbers, which count pixels from 1; None if one is not a number.
        difficult: hard to recognise, so that evaluation ignores it.
    """

    name: str
    box: tuple[float, ...] | None
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """An annotation file.

    Attributes:
        file_name: of the image, without folders; empty if the file does not tell.
        size_wh: width and height of the image; None if the file does not tell, or if no image can have this size.
        objects: in the order of the file.
    """

    file_name: str
    size_wh: tuple[int, int] | None
    objects: tuple[VocObject, ...]

    @classmethod
    def read(cls, path: str) -> VocFile:
        """Raises: FileNotFoundError; ValueError with the path if it is not XML, or not safe to read."""
        root = parse_xml(path)
        width, height = (_number(root, f"size/{side}") or 0 for side in ("width", "height"))
        is_usable = all(1 <= side <= _LARGEST_SIDE for side in (width, height))  # False for NaN
        return cls(
            file_name=os.path.basename(_text(root, "filename")),
            size_wh=(int(width), int(height)) if is_usable else None,
            objects=tuple(_read_object(element) for element in root.iter("object")),
        )


def parse_xml(path: str) -> Element:
    """The root element of an XML file.

    A document type is refused, because its entities can expand to any size or name other files. Annotations need none.

    Raises: FileNotFoundError; ValueError with the path.
    """
    builder = TreeBuilder()
    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except (xml.parsers.expat.ExpatError, ValueError) as error:
        raise ValueError(f"annotation file {path} cannot be read as XML: {error}") from error


def _refuse_document_type(name: str, *_: object) -> None:
    raise ValueError(
        f"it declares a document type (<!DOCTYPE {name} ...>), which is not safe and not needed; remove it"
    )


def _read_object(element: Element) -> VocObject:
    sides = [_number(element, f"bndbox/{side}") for side in _SIDES]
    box = tuple(side for side in sides if side is not None)
    return VocObject(
        name=_text(element, "name").lower(),
        box=box if len(box) == len(_SIDES) else None,
        difficult=_text(element, "difficult") == "1",
    )


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(element: Element, path: str) -> float | None:
    try:
        return float(_text(element, path))
    except ValueError:
        return None
