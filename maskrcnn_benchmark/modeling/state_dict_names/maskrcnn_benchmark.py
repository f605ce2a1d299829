"""Files of maskrcnn-benchmark, of its HRNet fork, and of this package: their names are the names here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .family import Conventions, Converted, WeightFamily


class MaskRCNNBenchmark(WeightFamily):
    """Nothing is converted. What such a file assumes of images is in the config of its training."""

    name = "maskrcnn_benchmark"
    signature = re.compile(
        r"^(backbone\.body\.(stem|stage\d|transition\d)\.|backbone\.fpn\.fpn_(inner|layer)\d|backbone\.neck\."
        r"|roi_heads\.(box|mask|multi_mask|keypoint)\.(feature_extractor|predictor)\.|roi_heads\.refine\.|rpn\.head\.\w+_tower\.)"
    )

    def knows(self, name: str) -> bool:
        return name.startswith(("backbone.", "rpn.", "roi_heads."))

    def convert(self, state: Mapping[str, Tensor], model: Conventions) -> Converted:
        return Converted(dict(state), {name: name for name in state})

    def export(self, state: Mapping[str, Tensor], model: Conventions) -> dict[str, Tensor]:
        return dict(state)
