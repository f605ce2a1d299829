"""The shipped files under the names of maskrcnn-benchmark and its HRNet fork have these projects' values.

`upstream_configs.json` records what each of their files says, as differences from the defaults that
`upstream_defaults.json` records.
"""

import json
from pathlib import Path

import pytest

from maskrcnn_benchmark.config import load_config
from tests.config.test_defaults import UPSTREAM, as_lists, value_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PROJECTS = json.loads((Path(__file__).parent / "upstream_configs.json").read_text())
CLUSTER_FILES = {  # the fork's baselines name files of its authors' cluster; these are the same weights
    f"mask_rcnn_R_{depth}_FPN_{schedule}.yaml": f"catalog://ImageNetPretrained/MSRA/R-{depth}"
    for depth in (50, 101)
    for schedule in ("1x", "2x")
}


def recorded_files() -> list[tuple[str, dict]]:
    return [(name, values) for files in PROJECTS.values() for name, values in files.items()]


@pytest.mark.parametrize(("name", "differences"), recorded_files(), ids=[name for name, _ in recorded_files()])
def test_a_file_has_upstreams_values(name, differences):
    cfg = load_config(CONFIGS / name)
    expected = {key: default for key, (_, default) in UPSTREAM.items()} | differences
    found = {key: as_lists(value_of(cfg, key)) for key in UPSTREAM}
    assert found == expected


def test_all_files_of_both_projects_are_recorded():
    assert {project: len(files) for project, files in PROJECTS.items()} == {
        "maskrcnn-benchmark": 66,
        "HRNet-MaskRCNN-Benchmark": 15,  # the other 27 are maskrcnn-benchmark's, with the same values
    }
    for name, weight in CLUSTER_FILES.items():
        assert PROJECTS["HRNet-MaskRCNN-Benchmark"][name]["MODEL.WEIGHT"] == weight
