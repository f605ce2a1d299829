"""The config tree. `cfg` is the process-wide one that old scripts share; new code calls `load_config`."""

from maskrcnn_benchmark.utils.problems import ConfigError

from .checks import check_config
from .defaults import get_cfg
from .loading import load_config
from .node import CfgNode, UnknownKeyError
from .plugins import declare_custom

cfg = get_cfg()

__all__ = [
    "CfgNode",
    "ConfigError",
    "UnknownKeyError",
    "cfg",
    "check_config",
    "declare_custom",
    "get_cfg",
    "load_config",
]
