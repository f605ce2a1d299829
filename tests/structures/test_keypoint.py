import numpy as np
import pytest
import torch

from maskrcnn_benchmark.structures.keypoint import FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, Keypoints, PersonKeypoints

SIZE = (40, 30)


def person_case():
    """Three people, with some points unlabelled and all at distinct places."""
    points = torch.rand(3, 17, 3) * torch.tensor([40.0, 30.0, 0.0])
    points[..., 2] = torch.randint(0, 3, (3, 17))
    points[points[..., 2] == 0] = 0
    return PersonKeypoints(points, SIZE)


class Arrow(Keypoints):
    NAMES = ("tip", "left_barb", "right_barb")
    FLIP_MAP = {"left_barb": "right_barb"}


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("method", "axis"), [(FLIP_LEFT_RIGHT, 0), (FLIP_TOP_BOTTOM, 1)])
def test_mirror_swaps_sides_and_keeps_unlabelled_points_at_zero(method, axis, offset):
    people = person_case()
    people.add_field("logits", torch.rand(3, 17))
    people.add_field("scores", torch.rand(3))
    flipped = people.transpose(method, offset=offset)
    for person in range(3):
        for index, name in enumerate(PersonKeypoints.NAMES):
            other = name
            if name.startswith("left_"):
                other = "right_" + name.removeprefix("left_")
            elif name.startswith("right_"):
                other = "left_" + name.removeprefix("right_")
            source = people.keypoints[person, PersonKeypoints.NAMES.index(other)].clone()
            if source[2] > 0:
                source[axis] = SIZE[axis] - offset - source[axis]
            torch.testing.assert_close(flipped.keypoints[person, index], source)
    torch.testing.assert_close(flipped.transpose(method, offset=offset).keypoints, people.keypoints)
    left_eye, right_eye = PersonKeypoints.NAMES.index("left_eye"), PersonKeypoints.NAMES.index("right_eye")
    torch.testing.assert_close(flipped.get_field("logits")[:, left_eye], people.get_field("logits")[:, right_eye])
    torch.testing.assert_close(flipped.get_field("scores"), people.get_field("scores"))


def test_default_offset_is_upstreams():
    flipped = PersonKeypoints([[10.0, 5.0, 2.0] * 17], SIZE).transpose(FLIP_LEFT_RIGHT)
    assert flipped.keypoints[0, 0].tolist() == [29.0, 5.0, 2.0]


def test_resize_and_crop():
    people = PersonKeypoints([[10.0, 6.0, 2.0] * 17, [0.0, 0.0, 0.0] * 17, [39.0, 29.0, 1.0] * 17], SIZE)
    resized = people.resize((80, 15))
    assert resized.size == (80, 15)
    assert resized.keypoints[:, 0].tolist() == [[20.0, 3.0, 2.0], [0.0, 0.0, 0.0], [78.0, 14.5, 1.0]]
    cropped = people.crop((5, 5, 20, 25))
    assert cropped.size == (15, 20)
    assert cropped.keypoints[:, 0].tolist() == [[5.0, 1.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (1, [1]),
        ([0, 2], [0, 2]),
        (slice(1, None), [1, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([2]), [2]),
        ([], []),
    ],
    ids=str,
)
def test_indexing(index, rows):
    people = person_case()
    people.add_field("logits", torch.rand(3, 17))
    torch.testing.assert_close(people[index].keypoints, people.keypoints[rows])
    torch.testing.assert_close(people[index].get_field("logits"), people.get_field("logits")[rows])


def test_no_instances():
    empty = PersonKeypoints([], SIZE)
    assert len(empty) == 0 and empty.keypoints.shape == (0, 17, 3)
    for result in (empty.transpose(FLIP_LEFT_RIGHT), empty.resize((5, 5)), empty.crop((0, 0, 5, 5)), empty[[]]):
        assert result.keypoints.shape == (0, 17, 3)
    assert PersonKeypoints.cat([empty, person_case()]).keypoints.shape == (3, 17, 3)


def test_the_persons_skeleton():
    assert len(PersonKeypoints.NAMES) == len(PersonKeypoints.OKS_SIGMAS) == 17
    assert sorted(PersonKeypoints.FLIP_INDS) == list(range(17))
    assert all(PersonKeypoints.FLIP_INDS[PersonKeypoints.FLIP_INDS[index]] == index for index in range(17))
    assert PersonKeypoints.FLIP_INDS[0] == 0
    params = pytest.importorskip("pycocotools.cocoeval").Params("keypoints")
    np.testing.assert_allclose(PersonKeypoints.OKS_SIGMAS, params.kpt_oks_sigmas)


def test_other_skeletons():
    arrows = Arrow([[[1, 2, 2], [3, 4, 2], [5, 6, 1]]], SIZE)
    assert arrows.transpose(FLIP_LEFT_RIGHT, offset=0).keypoints[0].tolist() == [[39, 2, 2], [35, 6, 1], [37, 4, 2]]
    nameless = Keypoints(torch.ones(2, 5, 3), SIZE)
    assert nameless.resize((80, 60)).keypoints[0, 0].tolist() == [2, 2, 1]
    with pytest.raises(ValueError, match="not known which of the 5 unnamed keypoints change places"):
        nameless.transpose(FLIP_LEFT_RIGHT)
    with pytest.raises(
        ValueError, match=r"of Bird: flip_pairs has \('left_wing', 'right_wing'\).*Their names are beak, right_wing"
    ):
        type("Bird", (Keypoints,), {"NAMES": ("beak", "right_wing"), "FLIP_MAP": {"left_wing": "right_wing"}})


def test_bad_input():
    with pytest.raises(ValueError, match=r"takes 17 keypoints \(nose, .*right_ankle\), 5 points were given"):
        PersonKeypoints(torch.zeros(2, 5, 3), SIZE)
    with pytest.raises(ValueError, match=r"\(R, K, 3\) or \(R, K \* 3\), not \(2, 50\)"):
        PersonKeypoints(torch.zeros(2, 50), SIZE)
    with pytest.raises(KeyError, match="no field 'logits'; fields present: none"):
        person_case().get_field("logits")
    with pytest.raises(ValueError, match="given 3"):
        person_case().transpose(3)
