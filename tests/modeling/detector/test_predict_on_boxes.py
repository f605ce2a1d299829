"""The heads on given boxes: the same as on the detector's own, and logits of all outputs before they are written."""

import pytest
import torch

from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputKind
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, MASK, SCORES
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.known_skeletons import KNOWN_SKELETONS
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from tests.devices import DEVICES
from tests.modeling.tiny import ALL_HEADS, REFINED_MASKS, TWO_MASKS, tiny_batch, tiny_cfg, tiny_detector

RESCORED = ("MODEL.ROI_MASK_HEAD.RESCORE", True, "MODEL.ROI_KEYPOINT_HEAD.RESCORE", True)
HEADS = {
    "boxes": (),
    "coarse": (*ALL_HEADS[:4], *RESCORED),
    "refined": ALL_HEADS,
    "private": (*ALL_HEADS, "MODEL.ROI_REFINE_HEAD.SHARED", False),
    "coarse dropped": (*ALL_HEADS, "MODEL.ROI_REFINE_HEAD.KEEP_COARSE", False),
    "two masks": TWO_MASKS,
    "two masks refined": REFINED_MASKS,
}


def detector(*opts):
    torch.manual_seed(0)
    return tiny_detector(tiny_cfg("MODEL.ROI_HEADS.SCORE_THRESH", 0.2, *opts)).eval()


def only_boxes(detections):
    return [boxes.copy_with_fields([SCORES, LABELS]) for boxes in detections]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.fields() == theirs.fields() and ours.size == theirs.size and ours.offset == theirs.offset
        assert torch.equal(ours.bbox, theirs.bbox)
        for name in theirs.fields():
            mine, other = ours.get_field(name), theirs.get_field(name)
            if isinstance(other, BoxList):
                mine, other = mine.bbox, other.bbox
            elif not isinstance(other, torch.Tensor):
                mine, other = mine.keypoints, other.keypoints
            assert torch.equal(mine, other), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("heads", HEADS)
def test_on_its_own_boxes_the_detector_predicts_what_it_had_predicted(heads, offset, device):
    model = detector(*HEADS[heads], "MODEL.BOX_OFFSET", offset).to(device)
    images = [image.to(device) for image in tiny_batch()[0]]
    with torch.no_grad():
        expected = model(images)
        boxes = only_boxes(expected)
        assert all(len(per_image) > 0 for per_image in boxes)
        assert_same(model.predict_on_boxes(images, boxes), expected)
        features = model.backbone(torch.stack([images[0], images[0]]))
        twice = [boxes[0], boxes[0]]
        outputs = model.roi_heads.predict_logits(features, twice)
        assert_same(model.roi_heads.attach(outputs, twice), model.roi_heads.predict_on_boxes(features, twice))
    assert [boxes_per_image.fields() for boxes_per_image in boxes] == [[SCORES, LABELS]] * 2, "given boxes are kept"


def test_boxes_may_be_none_and_of_either_form():
    model, (images, targets) = detector(*ALL_HEADS), tiny_batch()
    for target in targets:
        target.add_field(SCORES, torch.ones(len(target)))
    truth, nothing = only_boxes([targets[0], targets[1][[]]])
    found = model.predict_on_boxes(images, [truth.convert("xywh"), nothing])
    assert_same(found, model.predict_on_boxes(images, [truth, nothing]))
    assert found[0].mode == "xyxy" and found[0].get_field(MASK).shape == (2, 1, 16, 16)
    assert found[1].get_field(KEYPOINTS).keypoints.shape == (0, 17, 3)


def test_boxes_that_cannot_be_used_are_refused():
    model, (images, targets) = detector(*ALL_HEADS), tiny_batch()
    with pytest.raises(ValueError, match="1 BoxLists for 2 images"):
        model.predict_on_boxes(images, targets[:1])
    with pytest.raises(ValueError, match="image 0 of the batch is 96 x 64 pixels .* its BoxList is for 72 x 80"):
        model.predict_on_boxes(images, targets[::-1])
    with pytest.raises(ValueError, match="have offset 0, the model's MODEL.BOX_OFFSET is 1"):
        model.predict_on_boxes(images, tiny_batch(offset=0)[1])
    with pytest.raises(ValueError, match="is for inference"):
        model.train().predict_on_boxes(images, targets)
    with pytest.raises(ValueError, match="RPN_ONLY or RETINANET_ON is True"):
        detector("MODEL.RPN_ONLY", True).predict_on_boxes(images, targets)


def test_masks_and_heat_maps_are_mirrored_and_left_becomes_right():
    logits = torch.arange(17 * 6.0).reshape(1, 17, 2, 3)
    kind = KeypointKind(17)
    mirrored = kind.mirror(logits)
    left, right = (PersonKeypoints.NAMES.index(f"{side}_wrist") for side in ("left", "right"))
    assert torch.equal(mirrored[0, left], logits[0, right].flip(-1))
    assert torch.equal(mirrored[0, 0], logits[0, 0].flip(-1)), "the nose has no side"
    assert torch.equal(kind.mirror(mirrored), logits)
    pair = KeypointSpec(("fore", "aft"), [("fore", "aft")])
    assert torch.equal(KeypointKind(2, spec=pair).mirror(logits[:, :2]), logits[:, [1, 0]].flip(-1))
    assert torch.equal(MaskKind(3, offset=1).mirror(logits), logits.flip(-1))


def test_an_average_of_one_is_itself_and_of_masks_that_of_probabilities():
    logits = torch.tensor([-200.0, -3.0, 0.0, 2.0, 200.0])
    for kind in (KeypointKind(17), MaskKind(3, offset=1)):
        back = kind.logits_of_average(kind.averaged_values(logits))
        assert back.isfinite().all()
        torch.testing.assert_close(back.sigmoid(), logits.sigmoid())
    masks = MaskKind(3, offset=1)
    average = masks.logits_of_average((masks.averaged_values(logits) + masks.averaged_values(-logits)) / 2)
    torch.testing.assert_close(average.sigmoid(), torch.full((5,), 0.5))


class Age(OutputKind):
    name, task, loss_name, target_field = "age", "age", "loss_age", "ages"

    def loss(self, logits, positives, targets): ...

    def attach(self, logits, detections): ...


class SidelessAge(Age):
    def mirror(self, logits):
        return logits


def test_an_output_says_whether_it_can_be_mirrored():
    assert (
        SidelessAge().mirror_problem is KeypointKind(17).mirror_problem is MaskKind(3, offset=1).mirror_problem is None
    )
    assert "the output 'age' does not say what a mirrored image means" in Age().mirror_problem
    with pytest.raises(NotImplementedError, match=r"define `mirror\(logits\)` in Age"):
        Age().mirror(torch.zeros(1))
    five = KeypointKind(5)
    assert five.mirror_problem is None, "the data may tell"
    with pytest.raises(ValueError, match="not known which of the 5 unnamed keypoints change places"):
        five.mirror(torch.zeros(1, 5, 2, 2))
    five.use_keypoint_spec(KeypointSpec(("a", "b", "c", "d", "e")))
    assert "which of the 5 keypoints (a, b, c, d, e) change places" in five.mirror_problem
    with pytest.raises(
        ValueError, match=r"NUM_CLASSES is 5, but there are 2 keypoints \(fore, aft\) of x.json; set it"
    ):
        five.use_keypoint_spec(KeypointSpec(("fore", "aft"), source="x.json"))


def test_all_heads_are_told_what_the_keypoints_are():
    animal = KNOWN_SKELETONS["ap10k"]
    for shared in (True, False):
        model = detector(*ALL_HEADS, "MODEL.ROI_REFINE_HEAD.SHARED", shared)
        model.use_keypoint_spec(animal)
        refine = model.roi_heads["refine"]
        holders = [model.roi_heads["keypoint"], *([refine] if shared else refine.values())]
        kinds = [holder.outputs.get("keypoint") for holder in holders]
        kinds += [holder.indicators.get("keypoint") for holder in holders[1:]]
        assert {kind.spec for kind in kinds if kind is not None} == {animal} and sum(map(bool, kinds)) == 3
    detector("MODEL.RPN_ONLY", True).use_keypoint_spec(animal)
