"""The state dicts of released models: tests/contracts/<config>.json, as upstream and its HRNet fork write them.

Each file has the config (`opts`), the number of parameters and the keys of the state dict in order, as
"<module>.<name>,<name>,... <shape> <kind>", where the kind is "param", "frozen" or "buffer". All tensors are float32.
The HRNet fork also writes an `eps` buffer (1e-5) for every frozen batch norm; it is read here, but never written.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@dataclass(frozen=True)
class Contract:
    """One released model.

    Attributes:
        opts: config keys and values that build the model.
        num_parameters: number of weights, without buffers.
        shapes: shape of each state-dict entry, in the order of the file.
        kinds: "param", "frozen" or "buffer" for each entry.
    """

    opts: dict[str, Any]
    num_parameters: int
    shapes: dict[str, tuple[int, ...]]
    kinds: dict[str, str]

    @property
    def opts_list(self) -> list[Any]:
        """[key, value, key, value, ...], as `merge_from_list` takes them."""
        return [word for pair in self.opts.items() for word in pair]


def read_contract(name: str) -> Contract:
    content = json.loads((FOLDER / f"{name}.json").read_text())
    shapes, kinds = {}, {}
    for line in content["keys"]:
        names, shape, kind = line.split()
        module, _, last_names = names.rpartition(".")
        for last_name in last_names.split(","):
            shapes[f"{module}.{last_name}"] = tuple(map(int, shape.split("x")))
            kinds[f"{module}.{last_name}"] = kind
    return Contract(content["opts"], content["num_parameters"], shapes, kinds)
