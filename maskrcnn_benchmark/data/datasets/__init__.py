"""Data sets, and the registry of their classes.

A catalog entry has the keys "factory", a name in `DATASETS`, and "args". The class is built with
`from_cfg(cfg, *, is_train, transforms, **args)` if it has that method, else with `(*, transforms, **args)`; any
callable will do. To add a class of your own: `DATASETS.register("MyDataset", MyDataset)`. `base.py` tells what it must
offer.
"""

from maskrcnn_benchmark.data.datasets.cityscapes import CityScapesDataset
from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.concat_dataset import ConcatDataset
from maskrcnn_benchmark.data.datasets.list_dataset import ListDataset
from maskrcnn_benchmark.data.datasets.voc import PascalVOCDataset
from maskrcnn_benchmark.utils.registry import Registry

DATASETS = Registry()
DATASETS.register("COCODataset", COCODataset)
DATASETS.register("PascalVOCDataset", PascalVOCDataset)
DATASETS.register("CityScapesDataset", CityScapesDataset)

__all__ = [
    "DATASETS",
    "COCODataset",
    "CityScapesDataset",
    "ConcatDataset",
    "ListDataset",
    "PascalVOCDataset",
]
