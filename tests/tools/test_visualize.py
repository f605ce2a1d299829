"""tools/visualize.py from the command line to the page in a browser."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.data.datasets import PascalVOCDataset
from maskrcnn_benchmark.data.datasets.base import as_detection_dataset
from maskrcnn_benchmark.data.evaluation import evaluate
from maskrcnn_benchmark.drawing.colours import KIND_COLOURS
from maskrcnn_benchmark.reporting import report_predictions
from tests.data.voc_files import voc_object, write_voc
from tests.tools.report_cases import (
    CATEGORIES,
    annotation,
    of_image,
    random_case,
    slow_counts,
    write_dataset,
    write_results,
)
from tests.tools.runs import CONFIG, TINY, load_tool, write_people

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = ("bbox", "segm", "segm_coarse", "keypoints", "keypoints_coarse")
visualize = load_tool("visualize")


def run(*arguments) -> int:
    return visualize.main([str(argument) for argument in arguments])


def image_of(card) -> str:
    return re.search(r"id (\w+)", card["title"])[1]


class Page(HTMLParser):
    """A page's cards in their order: for each the title, the line below it, whether it is hidden, and its marks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cards: list[dict] = []
        self.links: list[str] = []
        self.status = ""
        self._into = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [value for name, value in attrs if name in ("href", "src", "action", "srcset") and value]
        if tag == "article":
            self.cards.append({"title": "", "line": "", "hidden": "hidden" in values, "marks": [], "texts": []})
        elif tag == "g" and values.get("class") == "instance":
            self.cards[-1]["marks"].append({**values, "hidden": "hidden" in values})
        elif tag == "text":
            self.cards[-1]["texts"].append({"hidden": "hidden" in values, "text": ""})
        self._into = {"h2": "title", "text": "texts", "tspan": "texts"}.get(tag, self._into)
        if values.get("class") == "measure":
            self._into = "line"
        elif values.get("id") == "status":
            self._into = "status"

    def handle_endtag(self, tag):
        if tag in ("h2", "p", "text"):
            self._into = None

    def handle_data(self, data):
        if self._into == "status":
            self.status += data
        elif self._into == "texts":
            self.cards[-1]["texts"][-1]["text"] += data
        elif self._into:
            self.cards[-1][self._into] += data

    def shown(self) -> list[str]:
        return [image_of(card) for card in self.cards if not card["hidden"]]


# Goes through addresses as a reader would, and leaves the page as it was after each for --dump-dom.
VISIT = """
<script>
(async () => {
  const seen = [document.documentElement.outerHTML];
  for (const address of ADDRESSES) {
    const changed = new Promise((done) => addEventListener("hashchange", () => setTimeout(done), { once: true }));
    location.hash = address;
    await changed;
    seen.push(document.documentElement.outerHTML);
  }
  document.body.textContent = JSON.stringify(seen);
})();
</script>"""


def browse(page: Path, *addresses: str, first: str = "") -> list[Page]:
    """The page as a browser without a network shows it: opened, then at each address; fails when it complains.

    Args:
        addresses: what comes behind the #, different from each other; first: the same of the address that is opened.
    """
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is installed to open the page in")
    visited = page.with_name("visited.html")
    script = VISIT.replace("ADDRESSES", json.dumps(addresses))
    visited.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               "--disable-background-networking", "--disable-extensions", f"--user-data-dir={page.parent / 'browser'}",
               "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:1", "--enable-logging=stderr",
               "--virtual-time-budget=20000", "--dump-dom", visited.as_uri() + first]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, "\n".join(console)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stdout[:2000]
    states = json.loads(unescape(body[1]))
    assert len(states) == len(addresses) + 1
    return [Page(state) for state in states]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A random dataset, its results, and the arguments that name both."""
    folder = tmp_path_factory.mktemp("visualize")
    annotations, detections = random_case(3)
    for number, found in enumerate(detections):
        x, y, width, height = found["box"]
        found["coarse_box"] = (x + (2, 0, -1)[number % 3], y, width * (0.9, 1.0, 1.15)[number % 3], height)
    file, images = write_dataset(folder / "data", annotations, 6)
    results = write_results(folder / "results", detections, NAMES)
    arguments = ["--results", results, "--annotations", file, "--images", images]
    return annotations, detections, arguments


@pytest.fixture(scope="module")
def predictions(case, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("predictions")
    assert run("predictions", *case[2], "--output", output, "--score-threshold", 0.5) == 0
    return output / "report.html"


def expected_lines(case, score, category=None):
    """Image id -> what its card says, from the slow matching of boxes."""
    annotations, detections, _ = case
    lines = {}
    for image_id in range(1, 7):
        mine, truth = of_image(detections, image_id), of_image(annotations, image_id)
        if category is not None:
            mine, truth = ([entry for entry in part if entry["category_id"] == category] for part in (mine, truth))
        tp, fp, miss = slow_counts("bbox", mine, truth, 0.5, score)
        f1 = 2 * tp / (2 * tp + fp + miss) if tp + fp + miss else 1.0
        lines[str(image_id)] = (f1, f"F1 {f1:.2f}: {tp} found, {fp} wrong, {miss} missed")
    return lines


def test_predictions_page_without_its_script(case, predictions):
    html = predictions.read_text()
    page = Page(html)
    lines = expected_lines(case, 0.5)
    assert {image_of(card): card["line"] for card in page.cards} == {
        image_id: line for image_id, (_, line) in lines.items()
    }
    shares = [float(card["line"][3:7]) for card in page.cards]
    assert shares == sorted(shares)  # the worst first
    assert all(link.startswith(("data:image/", "#image-")) for link in page.links), page.links
    assert "dog &amp; cat" in html and "dog & cat" not in html
    assert "default-src 'none'" in html and "http://" not in html and "https://" not in html
    for card in page.cards:
        for mark in card["marks"]:
            assert mark["hidden"] == ("data-score" in mark and float(mark["data-score"]) < 0.5)
    total = [sum(int(number) for number in re.findall(r"(\d+) " + word, " ".join(line for _, line in lines.values())))
             for word in ("found", "wrong", "missed")]  # fmt: skip
    rows = re.findall(r'<tr><th scope="row">[^<]+</th>((?:<td>[^<]*</td>)+)</tr>', html)
    assert total == [sum(int(re.findall(r"<td>(\d+)</td>", row)[column]) for row in rows) for column in range(3)]


@pytest.mark.parametrize("own", [False, True], ids=["VOC", "own"])
def test_predictions_on_data_sets_without_coco_annotations(tmp_path, monkeypatch, own):
    objects = [
        voc_object("dog", (11, 11, 60, 50)),
        voc_object("sofa", (50, 20, 90, 60)),
        voc_object("cat", (1, 1, 9, 9)),
    ]
    write_voc(tmp_path / "voc" / "VOC2007", {"000005": objects, "000007": objects[:1]}, "val", (96, 64))
    dataset = PascalVOCDataset(tmp_path / "voc" / "VOC2007", "val")
    found = [dataset.get_groundtruth(index) for index in range(2)]
    found[1] = found[1][[]]
    for boxes in found:
        boxes.add_field("scores", torch.linspace(0.9, 0.3, len(boxes)))  # the last is below the threshold
    name = "mine" if own else "voc_2007_val"
    results = tmp_path / "inference" / name
    evaluate(WithoutIds(dataset) if own else dataset, found, results)
    if own:
        page = report_predictions(as_detection_dataset(WithoutIds(dataset)), results, tmp_path / "report")
    else:
        monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
        assert run("predictions", "--results", results, "--output", tmp_path / "report") == 0
        page = tmp_path / "report" / "report.html"
    lines = [card["line"] for card in Page(page.read_text()).cards]
    assert lines == ["F1 0.00: 0 found, 0 wrong, 1 missed", "F1 0.80: 2 found, 0 wrong, 1 missed"]
    assert len(list((tmp_path / "report" / "pictures").glob("*.png"))) == 2


class WithoutIds:
    """A data set with nothing more than its ground truth, its classes and its images."""

    def __init__(self, dataset):
        self.dataset, self.class_names, self.read_image = dataset, dataset.class_names, dataset.read_image

    def __len__(self):
        return len(self.dataset)

    def get_img_info(self, index):
        return {"width": 96, "height": 64}

    def get_groundtruth(self, index):
        return self.dataset.get_groundtruth(index).copy_with_fields(["labels"])


def test_filters_in_the_browser(case, predictions):
    plain = Page(predictions.read_text())
    addresses = ["score=0.9", "score=0.9&order=measure:desc", "score=0.5&order=measure:asc&kinds=fp",
                 "score=0.5&kinds=tp,fp,miss&class=dog+%26+cat"]  # fmt: skip
    opened, strict, best, wrong, dogs = browse(predictions, *addresses)
    assert opened.cards == plain.cards  # the script agrees with what Python wrote
    assert opened.status.startswith("Showing 6 of 6 images, with ")

    lines = expected_lines(case, 0.9)
    for card in strict.cards:
        assert card["line"] == lines[image_of(card)][1]
        for mark in card["marks"]:
            if "data-found" in mark and mark["data-was"] != "ignored":
                assert mark["data-kind"] == ("tp" if float(mark["data-found"]) >= 0.9 else "miss")
    assert [lines[image_id][0] for image_id in best.shown()] == sorted((f1 for f1, _ in lines.values()), reverse=True)

    before = {image_of(card): card["line"] for card in plain.cards}
    for card in wrong.cards:
        assert card["line"] == before[image_of(card)]  # counts are of all kinds
        assert card["hidden"] == (" 0 wrong" in card["line"])
        visible = {mark["data-kind"] for mark in card["marks"] if not mark["hidden"]}
        assert visible <= {"fp", "ignored"}
        assert "ignored" in visible or all(text["text"][0] == "✗" for text in card["texts"] if not text["hidden"])
    assert 0 < len(wrong.shown()) < 6

    lines = expected_lines(case, 0.5, category=9)
    for card in dogs.cards:
        assert card["line"] == lines[image_of(card)][1]
        assert all(mark["hidden"] for mark in card["marks"] if mark["data-class"] != CATEGORIES[9])
        assert card["hidden"] == all(mark["hidden"] or mark["data-kind"] == "ignored" for mark in card["marks"])
    assert 0 < len(dogs.shown()) < 6


def test_an_address_holds_a_view(predictions):
    opened, changed = browse(predictions, "score=0.5&kinds=tp", first="#score=0.5&kinds=fp")
    kinds = [{mark["data-kind"] for card in page.cards for mark in card["marks"] if not mark["hidden"]}
             for page in (opened, changed)]  # fmt: skip
    assert kinds[0] <= {"fp", "ignored"} and "fp" in kinds[0]
    assert kinds[1] <= {"tp", "ignored"} and "tp" in kinds[1]


def test_pictures_show_kinds_by_colour(tmp_path):
    """A person found, one missed, a detection of nothing: the frames around them have the colours of their kinds."""
    boxes = {"found": (4, 20, 24, 40), "missed": (36, 20, 24, 40), "nothing": (68, 20, 24, 40)}
    annotations = [annotation(1, 7, boxes["found"]), annotation(1, 7, boxes["missed"])]
    file, images = write_dataset(tmp_path / "data", annotations, 2)
    found = [{"image_id": 1, "category_id": 7, "score": score, "box": boxes[name]}
             for name, score in (("found", 0.9), ("nothing", 0.8), ("missed", 0.3))]  # fmt: skip
    results = write_results(tmp_path / "results", found)
    arguments = ["--results", results, "--annotations", file, "--images", images, "--output", tmp_path / "out"]
    assert run("predictions", *arguments) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert names == ["0001-1.png", "0002-2.png"]
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures" / names[0]).convert("RGB"))
    strip = picture.shape[0] - 64 * 7  # enlarged to 400 pixels or more: seven times
    second = picture.shape[1] - 96 * 7

    def frame(name, left):
        x, y, width, height = (7 * side for side in boxes[name])
        column = picture[strip + y + height // 2 : strip + y + height - 20, left + x : left + x + 1]
        assert (column == column[0, 0]).all()
        return tuple(column[0, 0].tolist())

    assert frame("found", 0) == frame("found", second) == KIND_COLOURS["tp"]
    assert frame("missed", 0) == KIND_COLOURS["miss"]
    assert frame("nothing", second) == KIND_COLOURS["fp"]
    assert frame("missed", second) == frame("nothing", 0) == (100, 100, 100)  # below the score; not annotated
    assert run("predictions", *arguments, "--order", "best", "--count", 1) == 0
    names = [path.name for path in (tmp_path / "out" / "pictures").iterdir()]
    assert names == ["0001-2.png"]  # nothing there, and nothing found


def test_refine_page(case, tmp_path):
    assert run("refine", *case[2], "--output", tmp_path, "--score-threshold", 0.2, "--lowest-score", 0) == 0
    plain = Page((tmp_path / "report.html").read_text())
    means = []
    for card in plain.cards:
        changes = [float(mark["data-change"]) for mark in card["marks"] if "data-change" in mark and not mark["hidden"]]
        mean = sum(changes) / len(changes)
        assert card["line"].startswith(f"mean change {'−' if mean < 0 else '+'}{abs(mean):.3f} over {len(changes)} ")
        means.append(mean)
        for mark in card["marks"]:
            if "data-change" in mark:
                change = float(mark["data-change"])
                assert mark["data-kind"] == ("same" if abs(change) < 0.01 else "better" if change > 0 else "worse")
    assert means == sorted(means) and means[0] < 0 < means[-1]  # those that lost most first
    assert run("refine", *case[2], "--output", tmp_path / "points", "--task", "keypoints", "--order", "best") == 0

    opened, gained = browse(tmp_path / "report.html", "order=measure:desc&kinds=better")
    assert opened.cards == plain.cards
    assert gained.shown()[0] == opened.shown()[-1]
    assert {mark["data-kind"] for card in gained.cards for mark in card["marks"] if not mark["hidden"]} <= {
        "better", "ignored"
    }  # fmt: skip


def test_dataset_and_curves(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "loss": 2.0}\n{"iteration": 2, "loss": 1.0}\n')
    assert run("curves", tmp_path, "--output", tmp_path / "curves") == 0
    page = Page((tmp_path / "curves" / "report.html").read_text())
    assert len(page.cards) == 1 and page.links[0].startswith("data:image/png;base64,")

    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(write_people(tmp_path, train=2, val=2)))
    output = tmp_path / "dataset"
    assert run("dataset", "--output", output, "--split", "test", "--count", 2, "--config-file", CONFIG, *TINY) == 0
    plain = Page((output / "report.html").read_text())
    targets = json.loads((tmp_path / "people" / "annotations" / "person_keypoints_val.json").read_text())["annotations"]
    assert plain.shown() == ["1", "2"]
    assert [len(card["marks"]) for card in plain.cards] == [
        sum(target["image_id"] == image_id for target in targets) for image_id in (1, 2)
    ]
    (opened,) = browse(output / "report.html")
    assert opened.cards == plain.cards and f"with {len(targets)} marks" in opened.status


def test_errors_are_explained(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def message(*arguments):
        assert run(*arguments) == 1
        return capsys.readouterr().out

    assert "tools/test_net.py" in message("predictions", "--results", "inference/people_val")
    results = write_results(tmp_path / "inference" / "people_val", [], ("bbox",))
    assert "people_val: no annotation file" in message("predictions", "--results", results)
    assert "no dataset 'people_vall'" in message("predictions", "--results", results, "--dataset", "people_vall")
    assert "MODEL.REFINE_ON" in message("refine", "--results", results, *case[2][2:])
    assert "no segm.json" in message("predictions", "--results", results, *case[2][2:], "--task", "segm")
    assert "train_net.py" in message("curves", tmp_path)
    assert "datasets are missing" in message("dataset", "--config-file", CONFIG)
    assert "no such" in message("predictions", *case[2], "--config-file", "gone.yaml").lower()
    (tmp_path / "file").write_text("")
    assert "cannot be written" in message("predictions", *case[2], "--output", tmp_path / "file")
    missing = ["--annotations", tmp_path / "gone.json", "--images", tmp_path]
    assert "gone.json" in message("predictions", "--results", results, *missing)
    with pytest.raises(SystemExit):
        run("predictions", *case[2], "--overlap", "1.5")
    assert "'1.5' is not a number from 0 to 1" in capsys.readouterr().err
