"""Visualise data, results and training: pictures, and a page that opens in a browser without a network.

python tools/visualize.py dataset --config-file FILE [KEY VALUE ...]
python tools/visualize.py predictions --results OUTPUT_DIR/inference/<dataset>
python tools/visualize.py refine --results OUTPUT_DIR/inference/<dataset>
python tools/visualize.py curves OUTPUT_DIR [OUTPUT_DIR ...]
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn_benchmark import reporting
from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.catalog import check_names, dataset_catalog
from maskrcnn_benchmark.data.datasets import DATASETS, COCODataset
from maskrcnn_benchmark.data.datasets.base import DetectionDataset, as_detection_dataset
from maskrcnn_benchmark.data.datasets.coco import mask_keys_of
from maskrcnn_benchmark.engine.run import friendly_errors
from maskrcnn_benchmark.reporting.overlaps import MEASURES, is_comparable
from maskrcnn_benchmark.utils.argument_types import fraction, non_negative_int, positive_int
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.registry import UnknownNameError

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger("maskrcnn_benchmark")


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after an error."""
    args = parse_arguments(argv)
    setup_logger("maskrcnn_benchmark")
    try:
        page = args.run(args)
    except (reporting.ReportError, UnknownNameError) as error:
        logger.error("%s", error)
        return 1
    logger.info("Open %s in a browser; the pictures are in %s", page, page.parent / "pictures")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    dataset = commands.add_parser("dataset", help="a data set after augmentation, as the model sees it")
    _add_output(dataset, "dataset", count=24)
    dataset.add_argument(
        "--split", choices=("train", "test"), default="train", help="DATASETS.TRAIN or DATASETS.TEST (%(default)s)"
    )
    dataset.add_argument(
        "--start-iter",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="skip N training iterations (%(default)s)",
    )
    _add_config(dataset)
    dataset.set_defaults(run=run_dataset)

    for name, text, run in (
        ("predictions", "predictions beside ground truth", run_predictions),
        ("refine", "ground truth, coarse and refined predictions side by side", run_refine),
    ):
        results = commands.add_parser(name, help=text)
        _add_output(results, name, count=40)
        _add_results(results)
        _add_config(results)
        results.set_defaults(run=run)

    curves = commands.add_parser("curves", help="losses, learning rate and AP of training runs")
    curves.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a training run, or its metrics.jsonl")
    curves.add_argument(
        "--output", default="output/visualize/curves", metavar="DIR", help="folder of the report (%(default)s)"
    )
    curves.set_defaults(run=run_curves)
    return parser.parse_args(argv)


def run_dataset(args: argparse.Namespace) -> Path:
    cfg = load_config(args.config_file, args.opts)
    return reporting.report_dataset(
        cfg,
        args.output,
        is_train=args.split == "train",
        count=args.count,
        start_iter=args.start_iter,
        thumbnail=args.thumbnail,
        mask=args.mask,
    )


def run_predictions(args: argparse.Namespace) -> Path:
    return _report_results(args, reporting.report_predictions)


def run_refine(args: argparse.Namespace) -> Path:
    return _report_results(args, reporting.report_refinement)


def run_curves(args: argparse.Namespace) -> Path:
    return reporting.report_curves(args.runs, args.output)


def load_dataset(cfg: CfgNode, name: str, annotations: str, images: str) -> DetectionDataset:
    """Return the tested data set: from an annotation file, or by its name in the catalog."""
    mask_keys = mask_keys_of(cfg.DATASETS.MASK_KEYS)
    if annotations:
        return COCODataset(annotations, images, mask_keys=mask_keys)
    catalog = dataset_catalog(cfg)
    entry = catalog.get(name)
    check_names(catalog, [name])
    more = {"mask_keys": mask_keys} if mask_keys else {}  # only data sets with named masks know it
    dataset = as_detection_dataset(DATASETS[entry["factory"]](transforms=None, **more, **entry["args"]))
    if not dataset.can_draw:
        raise reporting.ReportError(f"{name} is a {dataset.kind}, which lacks `read_image` or `get_groundtruth`")
    return dataset


def _report_results(args: argparse.Namespace, report: Callable[..., Path]) -> Path:
    cfg = load_config(args.config_file, args.opts)
    reporting.read_results(args.results)  # raises if the folder is wrong, before its name is taken for a data set's
    name = args.dataset or Path(args.results).resolve().name
    dataset = load_dataset(cfg, name, args.annotations, args.images)
    options = reporting.Options(
        task=args.task,
        overlap=args.overlap,
        score_threshold=args.score_threshold,
        lowest_score=args.lowest_score,
        order=args.order,
        count=args.count,
        thumbnail=args.thumbnail,
        mask=args.mask,
    )
    return report(dataset, args.results, args.output, options, sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS)


def _add_output(parser: argparse.ArgumentParser, name: str, count: int) -> None:
    parser.add_argument(
        "--output", default=f"output/visualize/{name}", metavar="DIR", help="folder of the report (%(default)s)"
    )
    parser.add_argument("--count", type=positive_int, default=count, metavar="N", help="images to show (%(default)s)")
    parser.add_argument(
        "--thumbnail",
        type=positive_int,
        default=640,
        metavar="PIXELS",
        help="longest side of the images in the page (%(default)s); the PNG files have full size",
    )
    parser.add_argument(
        "--mask", default="", metavar="NAME", help="mask to fill if instances have several; the others are outlines"
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="YAML config of the run (default: the default config)"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and their values")


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", required=True, metavar="DIR", help="folder with the result files: OUTPUT_DIR/inference/<dataset>"
    )
    parser.add_argument(
        "--dataset", default="", metavar="NAME", help="name of the data set in the catalog (default: the folder's name)"
    )
    parser.add_argument("--annotations", default="", metavar="FILE", help="annotation file, instead of --dataset")
    parser.add_argument("--images", default="", metavar="DIR", help="folder of the images of --annotations")
    parser.add_argument(
        "--task",
        type=_task,
        default="",
        metavar="TASK",
        help=f"task to compare: {', '.join(MEASURES)} or segm_<name of a mask> (default: the first with results)",
    )
    parser.add_argument(
        "--overlap", type=fraction, default=0.5, metavar="X", help="minimum IoU or OKS of a match (%(default)s)"
    )
    parser.add_argument(
        "--score-threshold",
        type=_hundredths,
        default=0.5,
        metavar="X",
        help="minimum score in the PNG files and for the order; initial value of the page's slider (%(default)s)",
    )
    parser.add_argument(
        "--lowest-score",
        type=_hundredths,
        default=0.05,
        metavar="X",
        help="leave out detections with a lower score (%(default)s)",
    )
    parser.add_argument(
        "--order",
        choices=("worst", "best"),
        default="worst",
        help="show the worst or the best images, in this order (%(default)s)",
    )


def _task(text: str) -> str:
    if text and not is_comparable(text):  # argparse converts the default, which is empty, too
        raise argparse.ArgumentTypeError(f"{text!r}; expected {', '.join(MEASURES)} or segm_<name of a mask>")
    return text


def _hundredths(text: str) -> float:
    return round(fraction(text), 2)  # the step of the page's slider


if __name__ == "__main__":
    sys.exit(main())
