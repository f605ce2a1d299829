"""Checks of a config as it is read: simple ranges, and keys of different sections that contradict each other.

Each check yields one line per problem: what is set, why it cannot work, what to set instead. The `from_cfg` of a model,
an optimiser or another part checks its own keys; `load_config(checks=...)` adds those checks to these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from maskrcnn_benchmark.utils.problems import ConfigError

from .node import CfgNode

_CHOICES: dict[str, tuple[Any, ...]] = {
    "DTYPE": ("float32", "float16", "bfloat16"),
    "MODEL.BOX_OFFSET": (0, 1),
    "MODEL.WEIGHT_FORMAT": ("", "RGB", "BGR"),
    "INPUT.FORMAT": ("", "RGB", "BGR", "RGB255", "BGR255"),
}
_RANGES: dict[str, tuple[float, float]] = {  # smallest and largest valid value
    "MODEL.WEIGHT_LEAST_SHARE": (0, 1),
    "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": (0, 1),
    "INPUT.VERTICAL_FLIP_PROB_TRAIN": (0, 1),
    "INPUT.HUE": (0, 0.5),
    "INPUT.ALIGN_IMAGE_FACTOR": (0, float("inf")),
    "DATASETS.MIN_KEYPOINTS": (0, float("inf")),
    "DATALOADER.NUM_WORKERS": (0, float("inf")),
    "DATALOADER.SIZE_DIVISIBILITY": (0, float("inf")),
    "SOLVER.MAX_ITER": (0, float("inf")),
    "SOLVER.IMS_PER_BATCH": (1, float("inf")),
    "SOLVER.ACCUMULATE": (1, float("inf")),
    "SOLVER.BASE_LR": (0, float("inf")),
    "SOLVER.WARMUP_ITERS": (0, float("inf")),
    "SOLVER.CHECKPOINT_PERIOD": (0, float("inf")),
    "SOLVER.KEEP_LAST": (0, float("inf")),
    "SOLVER.TEST_PERIOD": (0, float("inf")),
    "SOLVER.LOG_PERIOD": (1, float("inf")),
    "TEST.IMS_PER_BATCH": (1, float("inf")),
    "TEST.PICTURES": (0, float("inf")),
}


def check_config(cfg: CfgNode, *checks: Callable[[CfgNode], Iterable[str]]) -> None:
    """Run the checks of this file and `checks`, and report all problems together.

    Args:
        checks: functions that return the problems of a config, such as
            `maskrcnn_benchmark.modeling.detector.find_config_problems`.
    Raises: ConfigError with one problem per line.
    """
    problems = [
        *_check_choices(cfg),
        *_check_ranges(cfg),
        *_check_images(cfg),
        *_check_model(cfg),
    ]
    for check in checks:
        problems += [problem for problem in check(cfg) if problem not in problems]
    if problems:
        raise ConfigError("\n".join(problems))


def _value(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return node


def _check_choices(cfg: CfgNode) -> Iterator[str]:
    for key, choices in _CHOICES.items():
        if _value(cfg, key) not in choices:
            yield f"{key} is {_value(cfg, key)!r}; expected one of {', '.join(map(repr, choices))}."


def _check_ranges(cfg: CfgNode) -> Iterator[str]:
    for key, (smallest, largest) in _RANGES.items():
        value = _value(cfg, key)
        if not smallest <= value <= largest:
            limits = f"at least {smallest}" if largest == float("inf") else f"between {smallest} and {largest}"
            yield f"{key} is {value}; expected {limits}."


def _check_images(cfg: CfgNode) -> Iterator[str]:
    node = cfg.INPUT
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(node[key]) != 3:
            yield f"INPUT.{key} is {node[key]}; expected three numbers, one per colour channel."
    if 0 in node.PIXEL_STD:
        yield f"INPUT.PIXEL_STD is {node.PIXEL_STD}; images are divided by it, so none of its numbers can be 0."
    if not node.MIN_SIZE_TRAIN:
        yield "INPUT.MIN_SIZE_TRAIN is empty; expected at least one length of the shorter side, such as (800,)."
    longest = node.MAX_SIZE_TRAIN
    if isinstance(longest, tuple) and len(longest) not in (1, len(node.MIN_SIZE_TRAIN)):
        yield (
            f"INPUT.MAX_SIZE_TRAIN is {longest} and INPUT.MIN_SIZE_TRAIN is {node.MIN_SIZE_TRAIN}; expected one cap "
            "for all lengths of the shorter side, or one for each."
        )


def _check_model(cfg: CfgNode) -> Iterator[str]:
    """Check keys that depend on keys of other sections. Each module checks its own keys when it is built."""
    if cfg.MODEL.REFINE_ON and cfg.MODEL.RPN_ONLY:
        yield "MODEL.REFINE_ON and MODEL.RPN_ONLY are True: without RoI heads nothing can be refined; switch one off."
