"""Train a detector, then test it: `python tools/train_net.py --config-file FILE [KEY VALUE ...]`.

Several processes: `torchrun --nproc_per_node=N tools/train_net.py ...`, or `python -m torch.distributed.launch`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine import startup
from maskrcnn_benchmark.engine.defaults import (
    EXIT_STOPPED,
    argument_parser,
    begin,
    distribute,
    errors_explained,
    logger,
    record_config,
)
from maskrcnn_benchmark.engine.inference import run_tests
from maskrcnn_benchmark.engine.launch import Process, launch, leave
from maskrcnn_benchmark.engine.resume import agreed, plan_resume
from maskrcnn_benchmark.engine.seed import be_deterministic, choose_seed, seed_everything
from maskrcnn_benchmark.engine.trainer import do_train
from maskrcnn_benchmark.modeling.detector import build_detection_model, find_config_problems
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import DetectronCheckpointer
from maskrcnn_benchmark.utils.miscellaneous import save_labels


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 an error that was explained, 143 stopped by a signal, to be continued."""
    args = parse_arguments(argv)
    with errors_explained() as status:
        cfg = load_config(args.config_file, args.opts, checks=[find_config_problems])
        process = launch(cfg.MODEL.DEVICE, args.local_rank)
        begin(cfg, process, args.config_file)
        tests = cfg.DATASETS.TEST if cfg.SOLVER.TEST_PERIOD > 0 or not args.skip_test else ()
        startup.check_evaluation(cfg)
        with startup.explained():
            startup.check_datasets_exist(cfg, (*cfg.DATASETS.TRAIN, *tests))
        plan = agreed(plan_resume(cfg, args.resume))
        if cfg.SEED < 0:
            cfg.SEED = choose_seed(cfg.SEED) if plan.seed is None else plan.seed
        cfg.freeze()
        record_config(cfg)
        seed_everything(cfg.SEED, process.rank)
        if cfg.DETERMINISTIC:
            be_deterministic()
        with startup.explained():
            test_loaders = make_data_loader(cfg, is_train=False, is_distributed=process.distributed) if tests else []
        status.append(run(cfg, process, plan.resume, test_loaders, args.skip_test))
        leave()
    return status[-1]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser("Train a detector, then test it on every dataset of DATASETS.TEST.")
    parser.add_argument("--skip-test", action="store_true", help="do not test the final model")
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument(
        "--resume",
        dest="resume",
        action="store_true",
        default=None,
        help="continue from the last checkpoint in OUTPUT_DIR, whatever the config says about the model; start anew "
        "where there is none. Without either flag a run continues, and says so, when the MODEL keys (MODEL.WEIGHT "
        "among them) are those of the run that wrote the checkpoint, and refuses to start when they are not",
    )
    resume.add_argument(
        "--no-resume",
        dest="resume",
        action="store_false",
        help="start anew from MODEL.WEIGHT, whatever OUTPUT_DIR holds; its files are overwritten as the run proceeds",
    )
    return parser.parse_args(argv)


def run(cfg: Any, process: Process, resume: bool, test_loaders: Sequence[DataLoader], skip_test: bool) -> int:
    """Train, then test; returns the exit status."""
    model, stopped, evaluated_at = train(cfg, process, resume, test_loaders)
    if stopped:
        return EXIT_STOPPED
    if skip_test or not test_loaders:
        return 0
    if evaluated_at == cfg.SOLVER.MAX_ITER:
        logger.info("The final model was evaluated at its last iteration: see %s/inference", cfg.OUTPUT_DIR)
        return 0
    run_tests(cfg, model, test_loaders, process.device)
    return 0


def train(
    cfg: Any, process: Process, resume: bool, test_loaders: Sequence[DataLoader]
) -> tuple[nn.Module, bool, int | None]:
    """Build what training takes, and train.

    Returns: the trained model, whether a signal stopped it early, the iteration of the latest evaluation.
    """
    with startup.explained():
        model = build_detection_model(cfg)
        startup.check_model(model, process)
        model.to(process.device)
        optimizer = make_optimizer(cfg, model)
        scheduler = make_lr_scheduler(cfg, optimizer)
    checkpointer = DetectronCheckpointer(cfg, model, optimizer, scheduler, cfg.OUTPUT_DIR, comm.is_main_process())
    arguments: dict[str, Any] = {"iteration": 0}
    arguments.update(checkpointer.load(cfg.MODEL.WEIGHT, resume=resume))
    if not resume:
        arguments = {"iteration": 0}  # weights to start from, not a run to continue
    with startup.explained():
        data_loader = make_data_loader(
            cfg, is_train=True, is_distributed=process.distributed, start_iter=arguments["iteration"]
        )
        startup.check_test_data(cfg, data_loader.dataset, [loader.dataset for loader in test_loaders])
    startup.warn_about_disk_space(cfg, model)
    save_labels([data_loader.dataset], cfg.OUTPUT_DIR)
    trainer = do_train(
        cfg,
        distribute(model, process),
        data_loader,
        test_loaders,
        optimizer,
        scheduler,
        checkpointer,
        process.device,
        cfg.SOLVER.CHECKPOINT_PERIOD,
        cfg.SOLVER.TEST_PERIOD,
        arguments,
    )
    return model, trainer.stop_reason is not None, arguments.get("evaluated_at")


if __name__ == "__main__":
    sys.exit(main())
