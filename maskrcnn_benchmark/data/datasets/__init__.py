"""Datasets, by the name that a catalog entry's "factory" gives.

An entry is a class with `from_cfg(cfg, *, is_train, transforms, **args)`, or any callable `(*, transforms, **args)`;
`args` come from the catalog. Your own: `DATASETS.register("MyDataset", MyDataset)`.
"""

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.concat_dataset import ConcatDataset
from maskrcnn_benchmark.data.datasets.list_dataset import ListDataset
from maskrcnn_benchmark.utils.registry import Registry

DATASETS = Registry()
DATASETS.register("COCODataset", COCODataset)

__all__ = ["COCODataset", "ConcatDataset", "DATASETS", "ListDataset"]
