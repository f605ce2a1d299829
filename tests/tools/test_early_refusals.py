"""What cannot run is refused before data is read, by each tool that trains or tests."""

import pytest

from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from tests.tools.runs import ROOT, load_tool

REFUSED = {
    "FBNet": ("e2e_mask_rcnn_fbnet.yaml", [], "This package does not have FBNet"),
    "unknown body": ("e2e_faster_rcnn_R_50_FPN_1x.yaml", ["MODEL.BACKBONE.CONV_BODY", "R-50-FNP"], "is 'R-50-FNP'; "),
    "unknown RPN head": ("e2e_faster_rcnn_R_50_FPN_1x.yaml", ["MODEL.RPN.RPN_HEAD", "FBNet.rpn_head"], "RPN_HEAD"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("tool", ["train_net", "test_net", "plain_train_net"])
def test_a_refusal_comes_before_data_is_read(tool, case, tmp_path, monkeypatch, capsys):
    def read_data(*_: object) -> None:
        pytest.fail("data was looked up before the config was refused")

    monkeypatch.setattr(DatasetCatalog, "get", read_data)
    file, options, reason = REFUSED[case]
    output = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHT", "", "OUTPUT_DIR", str(tmp_path)]
    status = load_tool(tool).main(["--config-file", str(ROOT / "configs" / file), *options, *output])
    captured = capsys.readouterr()
    assert status == 1
    assert reason in captured.out + captured.err
    assert "Traceback" not in captured.out + captured.err
    if tool != "plain_train_net":  # it has opened its log by then
        assert list(tmp_path.iterdir()) == []
