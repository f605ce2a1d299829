"""Check the model's part of a config before a run spends time on anything else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from maskrcnn_benchmark.modeling.detector.augmented_detector import find_augmentation_problems
from maskrcnn_benchmark.modeling.detector.detectors import build_detection_model
from maskrcnn_benchmark.structures.image_views import ViewSize
from maskrcnn_benchmark.utils.problems import ConfigError, collect_config_problems, config_problem
from maskrcnn_benchmark.utils.registry import UnknownNameError

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


def find_config_problems(cfg: CfgNode) -> list[str]:
    """Build the model on the `meta` device and return the problems of its config, one per line.

    Every `from_cfg` reports the problems of its own keys, so modules of a user are checked as well. No memory is
    allocated for weights, and no random number is drawn. An error of a constructor is a problem as well; if problems
    have been reported before, it is their consequence and is ignored. Errors other than ValueError are ignored
    here; the real build raises them with their traceback.
    """
    with collect_config_problems() as problems, torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            model = build_detection_model(cfg)
            sizes = ViewSize.from_cfg(cfg)
            for problem in find_augmentation_problems(model, sizes) if sizes else ():
                config_problem(problem)
        except Exception as error:
            explained = isinstance(error, (ValueError, UnknownNameError))
            if isinstance(error, ConfigError) or (explained and not problems):
                config_problem(str(error))
            elif not problems:
                logger.debug("the model cannot be built on the meta device; its config is not checked", exc_info=True)
    return problems
