"""Test a trained detector: `python tools/test_net.py --config-file FILE [--ckpt FILE] [KEY VALUE ...]`.

Several processes: `torchrun --nproc_per_node=N tools/test_net.py ...`; the result is that of a single one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine import startup
from maskrcnn_benchmark.engine.defaults import argument_parser, begin, errors_explained, logger
from maskrcnn_benchmark.engine.inference import run_tests
from maskrcnn_benchmark.engine.launch import launch, leave
from maskrcnn_benchmark.engine.seed import be_deterministic
from maskrcnn_benchmark.engine.weights import load_trained_weights
from maskrcnn_benchmark.modeling.detector import build_detection_model, find_config_problems
from maskrcnn_benchmark.utils import comm


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after an error, or where a result is not as TEST.EXPECTED_RESULTS has it."""
    args = parse_arguments(argv)
    with errors_explained() as status:
        cfg = load_config(args.config_file, args.opts, checks=[find_config_problems])
        process = launch(cfg.MODEL.DEVICE, args.local_rank)
        cfg.freeze()
        begin(cfg, process, args.config_file)
        logger.info("Running with config:\n%s", cfg)
        startup.check_evaluation(cfg)
        if not cfg.DATASETS.TEST:
            raise startup.StartupError("DATASETS.TEST is empty: name at least one data set of the catalog to test on.")
        if cfg.DETERMINISTIC:
            be_deterministic()
        with startup.explained():
            startup.check_datasets_exist(cfg, cfg.DATASETS.TEST)
            data_loaders = make_data_loader(cfg, is_train=False, is_distributed=process.distributed)
            startup.check_test_data(cfg, None, [loader.dataset for loader in data_loaders])
            model = build_detection_model(cfg).to(process.device)
        load_trained_weights(cfg, model, args.ckpt)
        results = run_tests(cfg, model, data_loaders, process.device)
        failed = any(found.failures for found in results.values())
        status.append(int(comm.broadcast(failed)))
        leave()
    return status[-1]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser("Test a detector on every dataset of DATASETS.TEST.")
    parser.add_argument(
        "--ckpt",
        default=None,
        metavar="FILE",
        help="weights to test: a file, a URL or a catalog:// name; without it the last checkpoint in OUTPUT_DIR, "
        "or where there is none MODEL.WEIGHT",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
