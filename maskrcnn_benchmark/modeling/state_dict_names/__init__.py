"""Names of weights: which projects' files are understood, and how they are converted to the models here.

Every family of files has a module with a `WeightFamily`; `WEIGHT_FAMILIES` holds them, and a user may register more.
Names that older files of this project use are read by the modules themselves, in `_load_from_state_dict`.
"""

from .caffe2 import Caffe2, load_c2_format, rename_c2_blobs, tensors_of
from .describing import describe_config
from .detectron2 import Detectron2
from .exporting import EXPORT_FAMILIES, Exported, convert_file
from .family import Conventions, Converted, NameTable, UnsupportedExportError, WeightFamily
from .hrnet import HRNet
from .loading import NAME_RULES, WEIGHT_FAMILIES, conventions_of, load_state_dict, recognise, refusal
from .maskrcnn_benchmark import MaskRCNNBenchmark
from .mmdetection import MMDetection
from .torchvision import TorchvisionClassifier, TorchvisionDetector

__all__ = [
    "EXPORT_FAMILIES",
    "NAME_RULES",
    "WEIGHT_FAMILIES",
    "Conventions",
    "Converted",
    "Exported",
    "NameTable",
    "UnsupportedExportError",
    "WeightFamily",
    "conventions_of",
    "convert_file",
    "describe_config",
    "load_c2_format",
    "load_state_dict",
    "recognise",
    "refusal",
    "rename_c2_blobs",
    "tensors_of",
]

WEIGHT_FAMILIES.register("maskrcnn_benchmark", MaskRCNNBenchmark)
WEIGHT_FAMILIES.register("detectron2", Detectron2)
WEIGHT_FAMILIES.register("torchvision", TorchvisionDetector)
WEIGHT_FAMILIES.register("torchvision_imagenet", TorchvisionClassifier)
WEIGHT_FAMILIES.register("hrnet", HRNet)
WEIGHT_FAMILIES.register("mmdetection", MMDetection)
WEIGHT_FAMILIES.register("detectron", Caffe2)
