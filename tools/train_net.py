"""Train a detector, then test it: `python tools/train_net.py --config-file FILE [KEY VALUE ...]`.

Several processes: `torchrun --nproc_per_node=N tools/train_net.py ...`, or `python -m torch.distributed.launch`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer
from maskrcnn_benchmark.engine.inference import run_tests, tasks_of_model
from maskrcnn_benchmark.engine.run import (
    EXIT_STOPPED,
    Run,
    argument_parser,
    check_model,
    check_test_data,
    distribute,
    friendly_errors,
    leave_process_group,
    start_run,
    startup_errors,
    warn_about_disk_space,
)
from maskrcnn_benchmark.engine.trainer import do_train
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.miscellaneous import save_labels

logger = logging.getLogger("maskrcnn_benchmark")


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 after an error, 143 if a signal stopped the run, which can be continued."""
    args = parse_arguments(argv)
    run = start_run(args, trains=True)
    test_loaders = make_test_loaders(run)
    model, stopped, evaluated_at = train(run, test_loaders)
    if not stopped and not args.skip_test:
        test(run, model, test_loaders, evaluated_at)
    leave_process_group()
    return EXIT_STOPPED if stopped else 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser("Train a detector, then test it on every dataset of DATASETS.TEST.")
    parser.add_argument("--skip-test", action="store_true", help="do not test the final model")
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument(
        "--resume",
        dest="resume",
        action="store_true",
        default=None,
        help="continue from the last checkpoint in OUTPUT_DIR, even if the config has a different model; start a new "
        "run if there is none. Without either flag, a run continues if its MODEL keys (including MODEL.WEIGHT) equal "
        "those of the checkpoint's run, and refuses to start if they differ",
    )
    resume.add_argument(
        "--no-resume",
        dest="resume",
        action="store_false",
        help="start a new run from MODEL.WEIGHT and ignore the checkpoints in OUTPUT_DIR; its files are overwritten",
    )
    return parser.parse_args(argv)


def make_test_loaders(run: Run) -> list[DataLoader]:
    """Return the loaders of the data sets to evaluate; made before training, so that bad annotations end the run."""
    if not run.test_sets:
        return []
    with startup_errors():
        return make_data_loader(run.cfg, is_train=False, is_distributed=run.process.distributed, catalog=run.catalog)


def train(run: Run, test_loaders: Sequence[DataLoader]) -> tuple[nn.Module, bool, int | None]:
    """Build the model and what training needs, and train.

    Returns: the trained model, whether a signal stopped it early, the iteration of the latest evaluation.
    """
    cfg, process, resume = run.cfg, run.process, run.plan.resume
    with startup_errors():
        model = build_detection_model(cfg)
        check_model(model, process)
        model.to(process.device)
        optimizer = make_optimizer(cfg, model)
        scheduler = make_lr_scheduler(cfg, optimizer)
    checkpointer = DetectronCheckpointer(cfg, model, optimizer, scheduler, cfg.OUTPUT_DIR, comm.is_main_process())
    loaded = checkpointer.load(cfg.MODEL.WEIGHT, resume=resume)
    arguments: dict[str, Any] = {"iteration": 0, **(loaded if resume else {})}  # else only the weights are used
    with startup_errors():
        data_loader = make_data_loader(
            cfg,
            is_train=True,
            is_distributed=process.distributed,
            start_iter=arguments["iteration"],
            catalog=run.catalog,
        )
        check_test_data(cfg, data_loader.dataset, [loader.dataset for loader in test_loaders], tasks_of_model(model))
    warn_about_disk_space(cfg, model)
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


def test(run: Run, model: nn.Module, test_loaders: Sequence[DataLoader], evaluated_at: int | None) -> None:
    """Evaluate the final model, unless the training has done so at its last iteration."""
    if test_loaders and evaluated_at == run.cfg.SOLVER.MAX_ITER:
        logger.info("The final model was evaluated at its last iteration: see %s/inference", run.cfg.OUTPUT_DIR)
    elif test_loaders:
        run_tests(run.cfg, model, test_loaders, run.process.device)


if __name__ == "__main__":
    sys.exit(main())
