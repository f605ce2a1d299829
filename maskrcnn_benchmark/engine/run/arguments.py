"""The flags that the command-line tools share."""

from __future__ import annotations

import argparse
from typing import Any


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        parsed = super().parse_args(*args, **kwargs)
        misplaced = [value for value in parsed.opts if value.startswith("--")]
        if misplaced:
            self.error(f"{', '.join(misplaced)}: flags go before the first KEY VALUE pair")
        return parsed


def argument_parser(description: str) -> argparse.ArgumentParser:
    """maskrcnn-benchmark's flags; the launcher's flag in both spellings. Flags come before the overrides.

    The arguments that it parses are what `start_run` takes.
    """
    parser = _Parser(description=description)
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to a YAML config; none: the defaults")
    parser.add_argument(
        "--local_rank",
        "--local-rank",
        type=int,
        default=None,
        metavar="N",
        help="set by launchers of older PyTorch versions; not needed under torchrun",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys and their values, which win over the file",
    )
    return parser
