"""train_net.py on upstream's recipes, from annotations to a table of results: few channels, small images, one step."""

import pytest

from tests.modeling.detector.test_shipped_configs_run import CONFIGS, with_few_channels
from tests.tools.runs import TINY, load_tool, write_people

RECIPES = {  # file: measures of its results
    "e2e_faster_rcnn_R_50_C4_1x.yaml": ["bbox"],
    "e2e_mask_rcnn_R_50_FPN_1x_periodically_testing.yaml": ["bbox", "segm"],
    "e2e_keypoint_rcnn_R_50_FPN_1x.yaml": ["bbox", "keypoints"],
    "rpn_R_50_FPN_1x.yaml": ["box_proposal"],
    "dcn/e2e_mask_rcnn_mdconv_R_50_FPN_1x.yaml": ["bbox", "segm"],
    "gn_baselines/scratch_e2e_mask_rcnn_R_50_FPN_Xconv1fc_3x_gn.yaml": ["bbox", "segm"],
    "hrnet/mask_rcnn_hrnet_w18_2x.yaml": ["bbox", "segm"],
    "retinanet/retinanet_R-50-FPN_1x.yaml": ["bbox"],
}


@pytest.mark.slow
@pytest.mark.parametrize("file", RECIPES)
def test_a_recipe_trains_and_tests_from_the_command_line(file, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(write_people(tmp_path / "data", train=2, val=2)))
    config = tmp_path / "few_channels.yaml"
    config.write_text(with_few_channels(CONFIGS / file).dump())
    options = [
        *("DATASETS.TRAIN", "('people_train',)", "DATASETS.TEST", "('people_val',)"),
        *("MODEL.ROI_BOX_HEAD.NUM_CLASSES", "2", "MODEL.RETINANET.NUM_CLASSES", "2", "OUTPUT_DIR", str(tmp_path)),
        *("SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()"),
    ]
    assert load_tool("train_net").main(["--config-file", str(config), *TINY, *options]) == 0
    results = tmp_path / "inference" / "people_val" / "results.txt"
    table = results.read_text().split("\n\n")[0]  # a table of single keypoints may follow
    assert [line.split()[0] for line in table.splitlines()[1:]] == RECIPES[file]
    assert (tmp_path / "model_final.pth").is_file()
