"""Check the model's part of a config before a run spends time on anything else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from maskrcnn_benchmark.modeling.detector.detectors import build_detection_model
from maskrcnn_benchmark.utils.problems import collect_config_problems
from maskrcnn_benchmark.utils.registry import UnknownNameError

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


def find_config_problems(cfg: CfgNode) -> list[str]:
    """Build the model on the `meta` device and return what is wrong with its config, one problem per line.

    Every `from_cfg` reports the problems of its own keys, so the modules of a user are checked as well as ours. No
    memory is allocated for weights, and the random state stays as it is. A part that cannot be built ends the search:
    its error is the last problem of the list. Other errors are left to the real build, whose traceback shows them.
    """
    with collect_config_problems() as problems, torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            build_detection_model(cfg)
        except (ValueError, UnknownNameError) as error:
            if str(error) not in problems:
                problems.append(str(error))
        except Exception:
            logger.debug("the model cannot be built on the meta device; its config is not checked", exc_info=True)
    return problems
