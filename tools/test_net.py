"""Test a trained detector: `python tools/test_net.py --config-file FILE [--ckpt FILE] [KEY VALUE ...]`.

Several processes: `torchrun --nproc_per_node=N tools/test_net.py ...`; the result equals that of one process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.datasets.base import as_detection_dataset
from maskrcnn_benchmark.engine.inference import run_tests, tasks_of_model
from maskrcnn_benchmark.engine.keypoints import tell_keypoints
from maskrcnn_benchmark.engine.run import (
    argument_parser,
    check_test_data,
    friendly_errors,
    leave_process_group,
    load_trained_weights,
    start_run,
    startup_errors,
)
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils import comm


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after an error or if a result is not as TEST.EXPECTED_RESULTS has it."""
    args = parse_arguments(argv)
    run = start_run(args, trains=False)
    cfg, device = run.cfg, run.process.device
    with startup_errors():
        model = build_detection_model(cfg).to(device)
        data_loaders = make_data_loader(
            cfg, is_train=False, is_distributed=run.process.distributed, catalog=run.catalog
        )
        check_test_data(cfg, None, [loader.dataset for loader in data_loaders], tasks_of_model(model))
    loaded = load_trained_weights(cfg, model, args.ckpt)
    specs = [as_detection_dataset(loader.dataset).keypoint_spec for loader in data_loaders]
    tell_keypoints(cfg, model, loaded, dict(zip(cfg.DATASETS.TEST, specs, strict=True)))
    results = run_tests(cfg, model, data_loaders, device)
    failed = comm.broadcast(any(found.failures for found in results.values()))
    leave_process_group()
    return int(failed)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser("Test a detector on every dataset of DATASETS.TEST.")
    parser.add_argument(
        "--ckpt",
        default=None,
        metavar="FILE",
        help="weights to test: a file, a URL or a catalog:// name; by default the last checkpoint in OUTPUT_DIR, "
        "or MODEL.WEIGHT if there is none",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
