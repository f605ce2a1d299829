"""Names of data sets and of released weights, and where their files are.

To add a data set, `DatasetCatalog.register` is enough. The config key `PATHS_CATALOG` may also name a file of your own
instead of this one. It defines `DatasetCatalog.get(name)`, and `ModelCatalog.get(name)` if it has names of weights.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable
from typing import Any

from maskrcnn_benchmark.utils.registry import UnknownNameError

DATASETS_VARIABLE = "MASKRCNN_BENCHMARK_DATASETS"  # environment variable: the folder that has coco/, people/, ...

_COCO_SPLITS = {  # split: (images, ending of the annotation files)
    "2017_train": ("coco/train2017", "train2017"),
    "2017_val": ("coco/val2017", "val2017"),
    "2014_train": ("coco/train2014", "train2014"),
    "2014_val": ("coco/val2014", "val2014"),
    "2014_minival": ("coco/val2014", "minival2014"),
    "2014_valminusminival": ("coco/val2014", "valminusminival2014"),
}


_PATHS = (
    "img_dir",
    "ann_dir",
    "ann_file",
    "keypoints_file",
    "data_dir",
    "root",
)  # keys of an entry that are below the data folder


def _known_datasets() -> dict[str, dict[str, Any]]:
    datasets: dict[str, dict[str, Any]] = {}
    for split, (images, ending) in _COCO_SPLITS.items():
        for prefix, kind in (("", "instances"), ("keypoints_", "person_keypoints")):
            annotations = f"coco/annotations/{kind}_{ending}.json"
            datasets[f"{prefix}coco_{split}"] = {"img_dir": images, "ann_file": annotations}
        datasets[f"coco_{split}_instances_and_keypoints"] = {  # 80 classes, and the keypoints of people
            **datasets[f"coco_{split}"],
            "keypoints_file": datasets[f"keypoints_coco_{split}"]["ann_file"],
        }
    datasets["coco_2017_test_dev"] = {
        "img_dir": "coco/test2017",
        "ann_file": "coco/annotations/image_info_test-dev2017.json",
    }
    for year, splits in {"2007": ("train", "val", "test"), "2012": ("train", "val")}.items():
        for split in ("train", "val", "trainval", "test"):
            datasets[f"voc_{year}_{split}"] = {"data_dir": f"voc/VOC{year}", "split": split}
        for split in splits:
            datasets[f"voc_{year}_{split}_cocostyle"] = {
                "img_dir": f"voc/VOC{year}/JPEGImages",
                "ann_file": f"voc/VOC{year}/Annotations/pascal_{split}{year}.json",
            }
    for split in ("train", "val", "test"):
        datasets[f"cityscapes_fine_instanceonly_seg_{split}_cocostyle"] = {
            "img_dir": "cityscapes/images",
            "ann_file": f"cityscapes/annotations/instancesonly_filtered_gtFine_{split}.json",
        }
        datasets[f"cityscapes_fine_instanceonly_seg_{split}"] = _cityscapes(split, "mask")
    for mode in ("poly", "mask"):
        for split in ("train", "val"):
            datasets[f"cityscapes_{mode}_instance_{split}"] = _cityscapes(split, mode)
        datasets[f"cityscapes_{mode}_instance_minival"] = {**_cityscapes("val", mode), "mini": 10}
    for split in ("train", "val"):  # drawn by tools/make_people_dataset.py
        datasets[f"people_{split}"] = {
            "img_dir": f"people/{split}",
            "ann_file": f"people/annotations/person_keypoints_{split}.json",
        }
    return datasets


def _cityscapes(split: str, mode: str) -> dict[str, Any]:
    return {"img_dir": "cityscapes/leftImg8bit", "ann_dir": "cityscapes/gtFine", "split": split, "mode": mode}


class DatasetCatalog:
    """Data set names -> class and arguments. Relative paths are below `data_dir()`.

    An entry of `DATASETS` has the arguments of its class, and the name of the class under "factory". Without a name,
    the arguments tell: "data_dir" is for PascalVOCDataset, "ann_dir" for CityScapesDataset, "ann_file" and "img_dir"
    (the argument `root`) are for COCODataset.
    """

    DATA_DIR = "datasets"  # in the working directory; used if the environment names no other folder
    DATASETS: dict[str, dict[str, Any]] = _known_datasets()

    @classmethod
    def data_dir(cls) -> str:
        """The folder of all data sets. Reads the environment at each call."""
        return os.path.expanduser(os.environ.get(DATASETS_VARIABLE, "") or cls.DATA_DIR)

    @classmethod
    def contains(cls, name: str) -> bool:
        return name in cls.DATASETS

    @classmethod
    def register(
        cls,
        name: str,
        ann_file: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] | None = None,
        factory: str = "COCODataset",
        **arguments: Any,
    ) -> None:
        """Add a data set, or replace the one of this name.

        Args:
            ann_file: annotations; a JSON file in COCO's format for the default factory.
            root: folder of the images.
            factory: name of the class in `maskrcnn_benchmark.data.datasets.DATASETS`.
            arguments: what else the class takes, such as `data_dir` and `split` of PascalVOCDataset, or of
                COCODataset the `keypoints_file`, which has the keypoints of the same annotations, and `keypoints`, a
                `KeypointSpec` or the name of a known skeleton.
        """
        given = {"ann_file": ann_file, "root": root, **arguments}
        entry = {key: os.fspath(value) if key in _PATHS else value for key, value in given.items() if value is not None}
        cls.DATASETS[name] = {**entry, "factory": factory}

    @classmethod
    def get(cls, name: str) -> dict[str, Any]:
        """{"factory": class name, "args": keyword arguments}. Raises: UnknownNameError."""
        if name not in cls.DATASETS:
            near = difflib.get_close_matches(name, cls.DATASETS, n=3)
            suggestion = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(cls.DATASETS))}."
            raise UnknownNameError(
                f"no dataset {name!r} in the catalog; {suggestion} "
                "DatasetCatalog.register(name, ann_file, root) adds one of your own."
            )
        folder = cls.data_dir()
        args = {
            key: os.path.join(folder, value) if key in _PATHS else value for key, value in cls.DATASETS[name].items()
        }
        factory = args.pop("factory", None) or _factory_for(args)
        if "img_dir" in args and "ann_file" in args:
            args["root"] = args.pop("img_dir")
        return {"factory": factory, "args": args}

    @classmethod
    def check(cls, names: Iterable[str]) -> None:
        """Check that all these data sets are known and on disk. Raises: UnknownNameError, FileNotFoundError."""
        check_datasets(names, cls)


def _factory_for(arguments: Collection[str]) -> str:
    """The class of an entry without "factory"."""
    if "data_dir" in arguments:
        return "PascalVOCDataset"
    return "CityScapesDataset" if "ann_dir" in arguments else "COCODataset"


def check_datasets(names: Iterable[str], catalog: Any = DatasetCatalog) -> None:
    """`DatasetCatalog.check` for any catalog with a `get`, such as one of your own.

    Raises: what `get` raises for an unknown name; FileNotFoundError with a list of everything that is missing.
    """
    missing = []
    for name in dict.fromkeys(names):
        for argument, path in catalog.get(name)["args"].items():
            if argument in ("ann_file", "keypoints_file") and not os.path.isfile(path):
                missing.append(f"{name}: no annotation file {path}")
            elif argument in ("root", "data_dir", "img_dir", "ann_dir") and not os.path.isdir(path):
                missing.append(f"{name}: no folder {path}")
    if not missing:
        return
    folder = DatasetCatalog.data_dir()
    origin = f"from {DATASETS_VARIABLE}" if os.environ.get(DATASETS_VARIABLE) else f"{DATASETS_VARIABLE} is not set"
    raise FileNotFoundError(
        "datasets are missing:\n  "
        + "\n  ".join(missing)
        + f"\nThe folder of the data sets is {os.path.abspath(folder)} ({origin}). What to do:\n"
        f"  1. COCO: link the folder that has its images and annotations/, `ln -s /path/to/coco {folder}/coco`,\n"
        f"     or set {DATASETS_VARIABLE} to the folder that has coco/.\n"
        "     The same is done for voc/ (with VOC2007/ and VOC2012/) and cityscapes/ (with leftImg8bit/ and gtFine/).\n"
        "  2. The data set of drawn people: make it in a minute with `make data` (or tools/make_people_dataset.py),\n"
        "     then DATASETS.TRAIN \"('people_train',)\" DATASETS.TEST \"('people_val',)\"."
    )


class ModelCatalog:
    """Names after `catalog://` in MODEL.WEIGHT -> URLs of the weights that the Detectron project released."""

    URL = "https://dl.fbaipublicfiles.com/detectron"

    IMAGENET = {  # "ImageNetPretrained/" + name: path below URL
        "MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
        "MSRA/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
        "MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
        "MSRA/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
        "FAIR/20171220/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
    }
    COCO = {  # "Caffe2Detectron/COCO/" + name: the run's signature, a part of its path
        "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
        "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
        "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
        "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
        "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
        "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
        "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
        "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
        "37129812/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x": "09_35_36.8pzTQKYK",
        "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
    }

    @classmethod
    def get(cls, name: str) -> str:
        """URL of the file. Raises: UnknownNameError with the nearest name, or all names."""
        kind, _, rest = name.partition("/")
        if kind == "ImageNetPretrained" and rest in cls.IMAGENET:
            return f"{cls.URL}/{cls.IMAGENET[rest]}"
        if name.startswith("Caffe2Detectron/COCO/") and name[len("Caffe2Detectron/COCO/") :] in cls.COCO:
            model = name[len("Caffe2Detectron/COCO/") :]
            number, config = model.split("/")
            data = "keypoints_coco" if "keypoint" in config else "coco"
            return (
                f"{cls.URL}/{number}/12_2017_baselines/{config}.yaml.{cls.COCO[model]}/output/train/"
                f"{data}_2014_train%3A{data}_2014_valminusminival/generalized_rcnn/model_final.pkl"
            )
        known = [f"ImageNetPretrained/{key}" for key in cls.IMAGENET] + [
            f"Caffe2Detectron/COCO/{key}" for key in cls.COCO
        ]
        near = difflib.get_close_matches(name, known, n=1)
        suggestion = f"did you mean catalog://{near[0]}?" if near else f"known: {', '.join(known)}."
        raise UnknownNameError(f"no weights catalog://{name}; {suggestion}")
