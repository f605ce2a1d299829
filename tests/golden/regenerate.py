"""Writes tests/golden/<config>.keys anew: every state-dict key of the config's model, with its shape.

    python -m tests.golden.regenerate

A change in these files is a change of the checkpoint format: files that people have stop loading, unless the module
reads its old names in `_load_from_state_dict`.
"""

from pathlib import Path

import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model

GOLDEN = Path(__file__).resolve().parent
CONFIGS = GOLDEN.parents[1] / "configs"
NAMES = ("hrnet_refine", "retinanet/retinanet_R-50-FPN_1x")


def keys_file(name: str) -> Path:
    return GOLDEN / f"{Path(name).name}.keys"


def keys_of_config(name: str) -> str:
    """One line per tensor: the key and its shape, "x" between the sizes, nothing for a scalar."""
    with torch.device("meta"):
        model = build_detection_model(load_config(CONFIGS / f"{name}.yaml"))
    lines = [f"{key} {'x'.join(map(str, value.shape))}".rstrip() for key, value in model.state_dict().items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    for name in NAMES:
        path = keys_file(name)
        path.write_text(keys_of_config(name))
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
