"""Draw instances on images: boxes, masks, skeletons and labels; comparisons, reports and heat maps.

`draw_instances` makes a whole picture. `draw_masks`, `draw_boxes`, `draw_skeletons` and `draw_labels` draw on a canvas
in place: (H, W, 3) uint8 with its channels in the order of the given colours. Instances are drawn in the order of the
BoxList, the last on top. Lines and text grow with the picture; `stroke_scale` enlarges them further for a picture that
is shown at a reduced size.
"""

from .colours import CHANNEL_ORDERS, RUN_COLOURS, Colour, instance_colours, numbered_colours
from .instances import as_canvas, best_last, draw_boxes, draw_instances
from .masks import draw_masks, image_masks
from .panels import draw_comparison, draw_panels
from .sheets import PANEL_STROKES, enlarge_small, mask_montage, side_by_side
from .skeletons import draw_skeletons
from .strokes import line_width
from .svg import colour_variables, panel_svg
from .text import Categories, draw_labels, label_texts, write_caption, write_text

__all__ = [
    "CHANNEL_ORDERS",
    "PANEL_STROKES",
    "RUN_COLOURS",
    "Categories",
    "Colour",
    "as_canvas",
    "best_last",
    "colour_variables",
    "draw_boxes",
    "draw_comparison",
    "draw_instances",
    "draw_labels",
    "draw_masks",
    "draw_panels",
    "draw_skeletons",
    "enlarge_small",
    "image_masks",
    "instance_colours",
    "label_texts",
    "line_width",
    "mask_montage",
    "numbered_colours",
    "panel_svg",
    "side_by_side",
    "write_caption",
    "write_text",
]
