"""Pictures of instances: boxes, masks, skeletons and labels, on the image they belong to.

`draw_instances` makes a whole picture. The parts that it consists of draw on a canvas in place: (H, W, 3) uint8, its
channels in the order that the colours were asked for in, instances in the order of the BoxList, the last on top.
Lines and text grow with the picture; where it will be shown smaller than it is, `stroke_scale` makes them larger.
"""

from .colours import CHANNEL_ORDERS, Colour, instance_colours, numbered_colours
from .instances import as_canvas, best_last, draw_boxes, draw_instances
from .masks import draw_masks, image_masks
from .panels import draw_comparison
from .sheets import PANEL_STROKES, enlarge_small, mask_montage, side_by_side
from .skeletons import draw_skeletons
from .strokes import line_width
from .text import Categories, draw_labels, label_texts, write_caption, write_text

__all__ = [
    "CHANNEL_ORDERS",
    "PANEL_STROKES",
    "Categories",
    "Colour",
    "as_canvas",
    "best_last",
    "draw_boxes",
    "draw_comparison",
    "draw_instances",
    "draw_labels",
    "draw_masks",
    "draw_skeletons",
    "enlarge_small",
    "image_masks",
    "instance_colours",
    "label_texts",
    "line_width",
    "mask_montage",
    "numbered_colours",
    "side_by_side",
    "write_caption",
    "write_text",
]
