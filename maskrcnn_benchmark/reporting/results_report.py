"""What the reports of test results share: options, pictures of an image's detections, and the writing of the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.data.evaluation.coco.from_groundtruth import annotation_ids
from maskrcnn_benchmark.drawing import draw_panels
from maskrcnn_benchmark.drawing.marks import IGNORED, Mark, Panel
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList

from .files import ReportFolder
from .matching import ImageMatches
from .page import DATASET_ORDER, Card, Filters, Kind, card_html, page_html
from .results_files import Results

WORST, BEST = "worst", "best"
_SCRIPT_ORDERS = {WORST: "measure:asc", BEST: "measure:desc"}  # as the page's script names them


@dataclass(frozen=True)
class Options:
    """What a report of test results shows.

    Attributes:
        task: what is compared, "bbox", "segm", "keypoints" or "segm_<name of a mask>"; "" for the first of these with
            results.
        mask: name of the mask that is drawn filled; "" for the compared one, or the first.
        overlap: minimum IoU, or OKS for keypoints, of a detection with the annotation that it matches.
        score_threshold: detections below it do not count; the initial value of the page's slider, in steps of 0.01.
        lowest_score: detections below it are not in the page.
        order: WORST or BEST images first.
        count: number of images.
        thumbnail: longest side of the images in the page, in pixels.
    """

    task: str = ""
    mask: str = ""
    overlap: float = 0.5
    score_threshold: float = 0.5
    lowest_score: float = 0.05
    order: str = WORST
    count: int = 40
    thumbnail: int = 640

    def __post_init__(self) -> None:
        if self.order not in _SCRIPT_ORDERS:
            raise ValueError(f"order is {self.order!r}; it can be {WORST!r} or {BEST!r}")


def write_results_report(
    output: str | os.PathLike[str],
    title: str,
    dataset: DetectionDataset,
    ranking: Sequence[int],
    make_card: Callable[[int], Card],
    options: Options,
    *,
    kinds: Mapping[str, Kind],
    order_titles: Mapping[str, str],
    lead: Callable[[int], Iterable[str]],
    tables: Sequence[str],
    measure: str,
) -> Path:
    """Draw the first `options.count` images of the ranking and write the page.

    Args:
        ranking: indices into the data set.
        make_card: index -> card of that image.
        kinds, measure: as for `Filters` and `page_html`.
        order_titles: WORST and BEST -> name of the order.
        lead: number of images in the page -> paragraphs below the title.
    Returns: the page. Raises: OSError.
    """
    names = list(dataset.categories.values())
    orders = {
        _SCRIPT_ORDERS[name]: order_titles[name]
        for name in sorted(_SCRIPT_ORDERS, key=lambda name: name != options.order)
    }
    filters = Filters(
        kinds=kinds,
        categories=names if len(names) > 1 else (),
        score=options.score_threshold,
        lowest=min(options.lowest_score, options.score_threshold),
        orders={**orders, DATASET_ORDER: "as in the dataset"},
    )
    folder = ReportFolder(output)
    cards: list[str] = []
    for index in ranking[: options.count]:
        card = make_card(index)
        picture = draw_panels(card.image, card.panels, options.score_threshold)
        folder.save_picture(picture, dataset.id_to_img_map[index])
        cards.append(card_html(card, len(cards), filters, options.thumbnail))
    page = page_html(title, list(lead(len(cards))), cards, tables=tables, filters=filters, measure=measure)
    return folder.write_page(page)


class ReportedImage:
    """One image of a report: its annotations and matched detections.

    Attributes:
        index: index of the image in the data set.
        matches: how its detections were matched.
        mask: name of the mask that is drawn filled, see `draw_masks`.
        truth: its annotations, in pixels of the image file.
        size_wh: width and height of the image file.
    """

    def __init__(
        self, dataset: DetectionDataset, index: int, results: Results, matches: ImageMatches, mask: str | None = None
    ) -> None:
        self.index, self.matches, self.mask = index, matches, mask
        self.truth = dataset.get_groundtruth(index)
        self.size_wh = (int(self.truth.size[0]), int(self.truth.size[1]))
        self._dataset, self._results = dataset, results

    def detections(self, suffix: str = "") -> BoxList:
        """The matched detections, lowest score first, so that the best are drawn on top.

        Args:
            suffix: "_coarse" for masks and keypoints from before refinement, see `ImageResult.to_boxlist`.
        """
        info = self._dataset.get_img_info(self.index)
        label_of = {category: label for label, category in self._dataset.contiguous_category_id_to_json_id.items()}
        found = self._results.image_result(self.matches.rows, (info["width"], info["height"]), label_of)
        has_keypoints = self.truth.has_field(fields.KEYPOINTS)
        spec = self.truth.get_field(fields.KEYPOINTS).spec if has_keypoints else None
        return found.to_boxlist(range(len(found) - 1, -1, -1), spec, suffix)

    def truth_marks(self, make_mark: Callable[[str, int], Mark]) -> list[Mark]:
        """A mark for each annotation; IGNORED for those that were not compared.

        Args:
            make_mark: (name of the class, position among the matched annotations) -> mark of a compared annotation.
        """
        positions = {int(identity): position for position, identity in enumerate(self.matches.annotation_ids)}
        labels = self.truth.get_field(fields.LABELS).tolist()
        marks = []
        for label, identity in zip(labels, annotation_ids(self.truth, self.index), strict=True):
            name, position = self._dataset.class_names[label], positions.get(identity, -1)
            if position < 0 or self.matches.ignored[position]:
                marks.append(Mark(IGNORED, name, name, f"{name}: not compared"))
            else:
                marks.append(make_mark(name, position))
        return marks

    def panel(self, title: str, boxes: BoxList, marks: Sequence[Mark]) -> Panel:
        """The image with some of its instances."""
        return Panel(title, boxes, marks, self.size_wh, mask=self.mask)

    def card(self, measure: str, panels: Sequence[Panel]) -> Card:
        info = self._dataset.get_img_info(self.index)
        return Card(
            title=f"{info.get('file_name', 'image')} (id {self._dataset.id_to_img_map[self.index]})",
            measure=measure,
            image=np.asarray(self._dataset.read_image(self.index)),
            panels=panels,
            index=self.index,
        )
