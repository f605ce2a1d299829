"""`start_run`: from command-line arguments to a run that is ready to build its model."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.catalog import Catalog, check_names, dataset_catalog
from maskrcnn_benchmark.layers import extension_status
from maskrcnn_benchmark.modeling.detector import find_config_problems
from maskrcnn_benchmark.solver import find_solver_problems
from maskrcnn_benchmark.utils.collect_env import collect_env_info
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.miscellaneous import ensure_writable, save_config

from ..hooks import find_hook_problems
from .checks import check_evaluation
from .errors import StartupError, startup_errors
from .processes import Process, join_process_group
from .resume import CONFIG_FILE, ResumePlan, broadcast_plan, plan_resume
from .seed import be_deterministic, choose_seed, seed_everything

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger("maskrcnn_benchmark")


@dataclass(frozen=True)
class Run:
    """A started run: its config is checked, its processes are connected, its log is open and its seed is set.

    Attributes:
        cfg: the config, frozen.
        process: the place of this process in the run.
        plan: whether the run continues the one in OUTPUT_DIR; never in a test.
        test_sets: names of the data sets that it evaluates; may be empty in a training.
        catalog: where the names of data sets are looked up.
    """

    cfg: CfgNode
    process: Process
    plan: ResumePlan
    test_sets: tuple[str, ...]
    catalog: Catalog


def start_run(args: argparse.Namespace, *, trains: bool) -> Run:
    """Load and check the config, join the other processes, open the log, decide on resuming, set the seed.

    Whatever can be found wrong before images are read is found here. Collective.

    Args:
        args: parsed by an `argument_parser`; a training also has `resume` (True, False, or None to decide by the
            config) and `skip_test`.
        trains: False for a test, which draws no random numbers and continues nothing.
    Raises: ConfigError, StartupError, OSError.
    """
    checks = [find_config_problems, *([find_solver_problems, find_hook_problems] if trains else [])]
    cfg = load_config(args.config_file, args.opts, checks=checks)
    process = join_process_group(cfg.MODEL.DEVICE, args.local_rank)
    open_log(cfg, process, args.config_file)
    check_evaluation(cfg)
    test_sets = _names_of_test_sets(cfg, args, trains)
    with startup_errors():
        catalog = dataset_catalog(cfg)
        check_names(catalog, (*cfg.DATASETS.TRAIN, *test_sets) if trains else test_sets)
    plan = broadcast_plan(plan_resume(cfg, args.resume)) if trains else ResumePlan(False)
    if trains and cfg.SEED < 0:
        cfg.SEED = choose_seed(cfg.SEED) if plan.seed is None else plan.seed
    cfg.freeze()
    logger.info("Running with config:\n%s", cfg)
    if trains:
        save_config_file(cfg)
        seed_everything(cfg.SEED, process.rank)
    if cfg.DETERMINISTIC:
        be_deterministic()
    return Run(cfg, process, plan, test_sets, catalog)


def open_log(cfg: CfgNode, process: Process, config_file: str) -> None:
    """Check the output folder, open log.txt, and log the environment. Raises: OSError."""
    if cfg.OUTPUT_DIR:
        ensure_writable(cfg.OUTPUT_DIR)
    setup_logger("maskrcnn_benchmark", cfg.OUTPUT_DIR, process.rank)
    logger.info("Using %d processes, device %s", process.world_size, process.device)
    logger.info("Environment:\n%s", collect_env_info())
    logger.info("ROIAlign and NMS: %s", extension_status())
    if config_file:
        logger.info("Config file: %s", config_file)


def save_config_file(cfg: CfgNode) -> None:
    """Save the whole config as config.yml in the output folder."""
    if cfg.OUTPUT_DIR:
        path = os.path.join(cfg.OUTPUT_DIR, CONFIG_FILE)
        save_config(cfg, path)
        logger.info("Config saved to %s", path)


def _names_of_test_sets(cfg: CfgNode, args: argparse.Namespace, trains: bool) -> tuple[str, ...]:
    if trains:
        return tuple(cfg.DATASETS.TEST) if cfg.SOLVER.TEST_PERIOD > 0 or not args.skip_test else ()
    if not cfg.DATASETS.TEST:
        raise StartupError("DATASETS.TEST is empty: name at least one data set of the catalog to test on.")
    return tuple(cfg.DATASETS.TEST)
