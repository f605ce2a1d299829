"""Marked instances as pixels and as SVG."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.drawing.colours import KIND_COLOURS
from maskrcnn_benchmark.drawing.marks import FALSE_POSITIVE, MISS, TARGET, TRUE_POSITIVE, Mark, Panel
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints, PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

SIZE = (600, 400)
GREY = np.full((400, 600, 3), 128, np.uint8)
SQUARE = [[20, 20, 60, 20, 60, 60, 20, 60]]


def boxlist(*corners, **fields_):
    boxes = BoxList(corners, SIZE, offset=0)
    for name, value in fields_.items():
        boxes.add_field(name, value)
    return boxes


def elements(svg, tag, name=None):
    root = ET.fromstring(re.sub(r" hidden(?=[ >])", ' hidden=""', svg))
    return [element for element in root.iter(tag) if name is None or element.get("class") == name]


def test_a_mark_is_missed_below_the_score_that_found_it():
    mark = Mark(TRUE_POSITIVE, "person", found=0.6)
    assert [mark.kind_at(score) for score in (0.5, 0.6, 0.61)] == ["tp", "tp", "miss"]
    assert Mark("tp", "person", found=-np.inf).kind_at(0.0) == "miss"
    assert Mark("ignored", "person", found=-np.inf).kind_at(0.9) == "ignored"
    assert Mark("fp", "person", score=0.4).is_hidden(0.5) and not Mark("fp", "person", score=0.5).is_hidden(0.5)
    assert not Mark("tp", "person", found=0.1).is_hidden(0.5), "annotations are always shown"


def test_svg_has_a_group_for_each_mark_with_what_the_script_reads():
    boxes = boxlist([20, 20, 60, 60], [100, 100, 90, 220])
    marks = [Mark("tp", "person", "person", "<found>", found=0.4), Mark("fp", 'dog & "cat"', "dog 0.30", score=0.3)]
    svg = drawing.panel_svg(
        Panel("A & B", boxes, marks, SIZE, (300, 200)), "one", "data:x", font_size=10, score_threshold=0.5,
        signs={"tp": "+", "fp": "x", "miss": "?"},
    )  # fmt: skip
    first, second = elements(svg, "g", "instance")
    assert (first.get("data-kind"), first.get("data-was"), first.get("data-found")) == ("miss", "tp", "0.4")
    assert first.find("title").text == "<found>" and first.get("hidden") is None
    assert second.get("data-class") == 'dog & "cat"' and second.get("data-score") == "0.3"
    assert second.get("hidden") == ""
    box = second.find("rect")
    assert [box.get(name) for name in ("x", "y", "width", "height")] == ["100", "100", "0", "120"]
    assert [text[0].text + text[0].tail for text in elements(svg, "text")] == ["? person", "x dog 0.30"]
    assert elements(svg, "rect", "frame")[0].get("width") == "300"
    assert elements(svg, "image")[0].get("href") == "data:x"
    again = drawing.panel_svg(Panel("B", boxes, marks, SIZE), "one", None, font_size=10)
    assert elements(again, "use")[0].get("href") == "#one" and not elements(again, "image")


def test_svg_draws_masks_and_skeletons_by_side():
    points = torch.zeros(1, 17, 3)
    names = PersonKeypoints.NAMES
    for name, place in {"left_shoulder": (30, 30, 2), "left_elbow": (40, 50, 2), "right_shoulder": (20, 30, 1)}.items():
        points[0, names.index(name)] = torch.tensor(place)
    boxes = boxlist([20, 20, 60, 60], masks=SegmentationMask([SQUARE], SIZE), keypoints=PersonKeypoints(points, SIZE))
    svg = drawing.panel_svg(Panel("", boxes, [Mark(TARGET, "person")], SIZE), "one", None, font_size=10)
    (path,) = elements(svg, "path", "mask")
    assert path.get("d").startswith("M") and path.get("d").count("L") == 3, "four corners"
    assert sorted(line.get("class") for line in elements(svg, "line")) == ["left", "middle"]
    assert sorted(circle.get("class") for circle in elements(svg, "circle")) == ["left", "left", "right hidden-point"]
    plain = boxlist([20, 20, 60, 60], keypoints=Keypoints(points, SIZE))
    svg = drawing.panel_svg(Panel("", plain, [Mark(TARGET, "person")], SIZE), "one", None, font_size=10)
    assert {circle.get("class") for circle in elements(svg, "circle")} == {"middle", "middle hidden-point"}


def test_svg_takes_colours_of_a_skeleton():
    spec = KeypointSpec(("tip", "barb"), (), [("tip", "barb")], colors=[(1, 2, 3), (4, 5, 6)])
    points = Keypoints(torch.tensor([[[30.0, 60.0, 2.0], [50.0, 60.0, 1.0]]]), SIZE, spec=spec)
    panel = Panel("", boxlist([20, 20, 60, 60], keypoints=points), [Mark(TARGET, "arrow")], SIZE)
    svg = drawing.panel_svg(panel, "one", None, font_size=10)
    (limb,), circles = elements(svg, "line"), elements(svg, "circle")
    assert limb.get("style") == "--middle: rgb(4, 5, 6)" and limb.get("class") == "middle"
    assert [circle.get("style") for circle in circles] == ["--middle: rgb(1, 2, 3)", "--middle: rgb(4, 5, 6)"]
    assert circles[1].get("class") == "middle hidden-point"


def test_svg_fills_the_chosen_mask_and_outlines_the_others():
    other = [[20, 20, 90, 20, 90, 60, 20, 60]]
    boxes = boxlist([20, 20, 60, 60], masks_visible=SegmentationMask([SQUARE], SIZE))
    boxes.add_field("masks_amodal", SegmentationMask([other], SIZE))
    for chosen, width in ((None, 59.5), ("visible", 59.5), ("amodal", 89.5)):
        panel = Panel("", boxes, [Mark(TARGET, "person")], SIZE, mask=chosen)
        svg = drawing.panel_svg(panel, "one", None, font_size=10)
        (filled,), (outlined,) = elements(svg, "path", "mask"), elements(svg, "path", "mask other-mask")
        assert str(width) in filled.get("d") and str(149 - width) in outlined.get("d")
    nothing = boxlist([20, 20, 60, 60], masks=SegmentationMask([SQUARE], SIZE))
    svg = drawing.panel_svg(
        Panel("", nothing, [Mark(TARGET, "person")], SIZE, mask="amodal"), "one", None, font_size=10
    )
    assert len(elements(svg, "path", "mask other-mask")) == 1


def test_the_style_sheet_has_a_colour_for_all_that_it_names():
    declared = set(re.findall(r"--([\w-]+): rgb\(", drawing.colour_variables()))
    assert {TRUE_POSITIVE, MISS, "left", "target-3"} <= declared
    assert f"--{MISS}: rgb(59, 156, 255);" in drawing.colour_variables()


def test_panels_leave_out_low_scores_and_colour_by_kind():
    corners = [100.0, 100.0, 200.0, 200.0]
    detections = Panel("found", boxlist(corners), [Mark(FALSE_POSITIVE, "dog", score=0.4)], SIZE)
    annotations = Panel("truth", boxlist(corners), [Mark(TRUE_POSITIVE, "dog", found=0.4)], SIZE)

    def has(picture, kind, half):
        columns = slice(0, 600) if half == 0 else slice(608, 1208)
        return (picture[:, columns] == KIND_COLOURS[kind]).all(axis=2).any()

    low, high = (drawing.draw_panels(GREY, [annotations, detections], score) for score in (0.3, 0.5))
    assert low.shape == high.shape and low.shape[1] == 1208
    assert has(low, TRUE_POSITIVE, 0) and has(low, FALSE_POSITIVE, 1)
    assert has(high, MISS, 0) and not has(high, TRUE_POSITIVE, 0) and not has(high, FALSE_POSITIVE, 1)


def test_padding_is_not_drawn_on():
    part = BoxList([[10.0, 10.0, 1e6, 1e6]], (300, 200), offset=0)
    picture = drawing.draw_panels(GREY, [Panel("padded", part, [Mark(TARGET, "dog", "dog")], SIZE, (300, 200))])
    drawn = (picture[-400:] != 128).any(axis=2)
    assert drawn[:200, :300].any() and not drawn[200:].any() and not drawn[:, 300:].any()


def test_a_comparison_has_one_panel_for_each_set_of_boxes():
    one, two = boxlist([100.0, 100.0, 200.0, 200.0]), boxlist([300.0, 100.0, 400.0, 200.0])
    picture = drawing.draw_comparison(GREY, {"one": one, "two": two, "none": one[:0]})
    assert picture.shape[1] == 3 * 600 + 2 * 8
    strips = [picture[-400:, left : left + 600] for left in (0, 608, 1216)]
    centres = [np.argwhere((strip != 128).any(axis=2)).mean(axis=0)[1] for strip in strips[:2]]
    assert centres == pytest.approx([150, 350], abs=10)
    assert (strips[2] == 128).all()
