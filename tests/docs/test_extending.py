"""The modules in docs/EXTENDING.md work as they stand there: written to files, named in IMPORTS, trained and tested."""

import json
import re

import pytest
import yaml

from tests.tools.runs import CONFIG, ROOT, TINY, finish, start, write_people

DOCUMENT = (ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8")


def code(file):
    """The Python block of the document that begins with the name of the file."""
    (block,) = re.findall(rf"```python\n# {re.escape(file)}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return block


def options(text):
    """A YAML block as KEY VALUE pairs for the command line."""

    def flat(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield from (prefix + key, str(value))

    return list(flat(yaml.safe_load(text)))


def add_ages(folder):
    """Ages for the people of `write_people`, except for the first of each file."""
    for path in (folder / "people" / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for number, annotation in enumerate(content["annotations"][1:]):
            annotation["age"] = 20 + 5 * number
        path.write_text(json.dumps(content))


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # where IMPORTS finds the modules
    folder = write_people(tmp_path)
    add_ages(folder)
    return folder


def train(datasets, output, *more, flags=()):
    """The log and the lines of metrics.jsonl."""
    command = ["tools/train_net.py", *flags, "--config-file", str(CONFIG), *TINY, "OUTPUT_DIR", str(output), *more]
    log = finish(start(datasets, *command))
    return log, [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_the_module_with_the_head_is_short():
    assert len(code("age_head.py").strip().splitlines()) <= 60


@pytest.mark.slow
def test_a_head_of_your_own_trains_is_evaluated_and_written(datasets, tmp_path):
    (tmp_path / "age_head.py").write_text(code("age_head.py"))
    (config,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    output = tmp_path / "output"
    # many detections, so that some overlap the ground truth after four iterations
    node = "MODEL.ROI_HEADS."
    many = [node + "SCORE_THRESH", "0.0", node + "DETECTIONS_PER_IMG", "400", node + "NMS", "0.9"]
    log, lines = train(datasets, output, "MODEL.REFINE_ON", "False", *many, *options(config))
    assert "loss_age" in log
    losses = [line["loss_age"] for line in lines if "loss_age" in line]
    assert len(losses) == 4 and all(0 < loss < 100 for loss in losses)
    results = json.loads((output / "inference" / "people_val" / "coco_results.json").read_text())["metrics"]
    assert {"bbox", "segm", "keypoints", "age"} <= set(results)
    assert results["age"]["matched"] > 0 and 0 < results["age"]["MAE"] < 100
    assert "age" in (output / "inference" / "people_val" / "results.txt").read_text()


@pytest.mark.slow
def test_a_schedule_of_your_own(datasets, tmp_path):
    (tmp_path / "polynomial.py").write_text(code("polynomial.py"))
    more = ["IMPORTS", "('polynomial',)", "SOLVER.LR_SCHEDULER", "Polynomial", "SOLVER.BASE_LR", "0.001"]
    _, lines = train(datasets, tmp_path / "output", *more, flags=["--skip-test"])
    rates = [line["lr"] for line in lines if "lr" in line]
    # the log has the rate of the next iteration
    assert rates == pytest.approx([0.001 * (1 - iteration / 4) ** 0.9 for iteration in (1, 2, 3, 4)])
