"""Marks: what a report says about the instances in a picture, before it is drawn as pixels or as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskrcnn_benchmark.structures.bounding_box import BoxList

# Kinds of marks. They are also class names in the report's style sheet and script.
TRUE_POSITIVE, FALSE_POSITIVE, MISS, IGNORED = "tp", "fp", "miss", "ignored"
TARGET, BETTER, WORSE, SAME = "target", "better", "worse", "same"


@dataclass(frozen=True)
class Mark:
    """What a report says about one instance.

    Attributes:
        kind: one of the kinds above; decides the colour. An annotation has the kind for the case that it is found.
        category: name of the class.
        text: label at the box.
        details: tooltip.
        score: score of a detection; None for an annotation.
        found: for an annotation, the score of the detection that found it; -inf if none did.
        change: change of the overlap through refinement.
    """

    kind: str
    category: str
    text: str = ""
    details: str = ""
    score: float | None = None
    found: float | None = None
    change: float | None = None

    def kind_at(self, score_threshold: float) -> str:
        """The kind at a score threshold: an annotation is missed if its detection scores below the threshold."""
        missed = self.found is not None and self.kind != IGNORED and not self.found >= score_threshold
        return MISS if missed else self.kind

    def is_hidden(self, score_threshold: float) -> bool:
        """Is this a detection with a score below the threshold?"""
        return self.score is not None and self.score < score_threshold


@dataclass(frozen=True)
class Panel:
    """An image with marked instances, one of several side by side.

    Attributes:
        title: line above or below the panel.
        boxes: the instances, with fields as for `draw_instances`.
        marks: one per instance.
        size_wh: size of the image.
        frame_wh: part of the image, from its upper left corner, to outline; None outlines nothing.
        mask: name of the mask that is drawn filled, see `draw_masks`.
    """

    title: str
    boxes: BoxList
    marks: Sequence[Mark]
    size_wh: tuple[int, int]
    frame_wh: tuple[int, int] | None = None
    mask: str | None = None
