"""Bodies of HRNet: the official ImageNet and segmentation files, and timm's, which have the same names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .family import IMAGENET_STD, Conventions, Converted, WeightFamily


class HRNet(WeightFamily):
    """Names are those of the body here. Classifiers and segmentation heads remain unused."""

    name = "HRNet (official or timm)"
    signature = re.compile(r"^stage[234]\.\d+\.(branches|fuse_layers)\.")
    _body = re.compile(r"^(conv[12]|bn[12]|layer1|transition[1-3]|stage[234])\.")
    _heads = re.compile(
        r"^(incre_modules|downsamp_modules|final_layer|classifier|head|last_layer|aux_head|ocr_|\w+_ocr)"
    )

    def knows(self, name: str) -> bool:
        return self._body.match(name) is not None or self._heads.match(name) is not None

    def convert(self, state: Mapping[str, Tensor], model: Conventions) -> Converted:
        converted = Converted(dict(state), {name: name for name in state})
        converted.unknown = [name for name in state if not self.knows(name)]
        converted.conventions = Conventions(norm_eps=1e-5, pixel_order="RGB", pixel_std=IMAGENET_STD)
        return converted
