import copy
import pickle

import numpy as np
import pytest

from maskrcnn_benchmark.structures.keypoint import FLIP_LEFT_RIGHT, Keypoints, PersonKeypoints
from maskrcnn_benchmark.structures.known_skeletons import (
    AP10K,
    COCO_PERSON,
    COCO_WHOLEBODY,
    HAND,
    KNOWN_SKELETONS,
    MPII,
    complete_from_known,
)
from maskrcnn_benchmark.structures.skeleton import UNIFORM_SIGMA, KeypointSpec

KITE = KeypointSpec(
    ["nose", "left_wing", "tail", "right_wing", "cross"],
    skeleton=[["nose", "left_wing"], [1, 2], [2, 3], ["right_wing", 0], [0, "tail"]],
    sigmas=[0.05] * 5,
    colors=[[255, 0, 0]] * 5,
)


def test_pairs_are_names_or_indices():
    assert KITE.flip_pairs == ((1, 3),) and KITE.flip_inds == (0, 3, 2, 1, 4) and len(KITE) == 5
    assert KITE.skeleton == ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2)) and KITE.colors[0] == (255, 0, 0)
    assert KeypointSpec(("a", "b", "c"), [("c", 0)]).flip_inds == (2, 1, 0)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("left_eye", "right_eye", "nose"), ((0, 1),)),
        (("nose", "R_Eye", "L_Eye"), ((2, 1),)),
        (("RightHand", "LeftHand"), ((1, 0),)),
        (("eye left", "eye right", "top-l", "top-r"), ((0, 1), (2, 3))),
        (("left_eye", "right_ear", "nose"), None),  # not every side has its partner
        (("tip", "barb"), None),
        (("l1", "r1", "leftover"), None),  # vertebrae have no side
        (("L_eye", "l_eye", "r_eye"), None),
    ],
)
def test_pairs_by_name(names, pairs):
    assert KeypointSpec(names).flip_pairs == pairs


def test_sides_for_drawing():
    assert KITE.sides == ("middle", "left", "middle", "right", "middle")
    assert KeypointSpec(("bow", "port", "starboard"), [("port", "starboard")]).sides == ("middle", "left", "right")
    assert COCO_PERSON.sides[:3] == ("middle", "left", "right")


def test_known_skeletons_hold_together():
    counts = {"coco_person": 17, "coco_wholebody": 133, "crowdpose": 14, "mpii": 16, "ap10k": 17, "hand": 21}
    assert {name: len(spec) for name, spec in KNOWN_SKELETONS.items()} == counts
    for spec in KNOWN_SKELETONS.values():
        indices = np.array(spec.flip_inds)
        assert (indices[indices] == np.arange(len(spec))).all(), "flipping twice gives the order back"
        for index, name in enumerate(spec.names):
            other = name.replace("left", "#").replace("right", "left").replace("#", "right")
            if other != name:
                assert spec.names[indices[index]] == other
        assert len(spec.sigmas) in (0, len(spec)) and len(set(spec.skeleton)) == len(spec.skeleton)
        reached = {0}  # limbs connect all points, but for the face of the whole body
        for _ in spec.names:
            reached |= {end for limb in spec.skeleton if reached & set(limb) for end in limb}
        loose = {name for index, name in enumerate(spec.names) if index not in reached}
        limbless = COCO_PERSON.names[:5] if spec in (COCO_PERSON, COCO_WHOLEBODY) else ()
        assert reached == {0, 1, 2, 3, 4} if limbless else not loose


def test_facts_of_known_skeletons():
    params = pytest.importorskip("pycocotools.cocoeval").Params("keypoints")
    np.testing.assert_allclose(COCO_PERSON.sigmas, params.kpt_oks_sigmas)
    face = COCO_WHOLEBODY.names.index("face-0")
    assert face == 23 and COCO_WHOLEBODY.names.index("left_hand_root") == 91
    assert [COCO_WHOLEBODY.flip_inds[face + n] - face for n in (0, 8, 17, 27, 30, 36, 48, 57, 60, 62, 67)] == [
        16, 8, 26, 27, 30, 45, 54, 57, 64, 62, 65,
    ]  # fmt: skip
    assert COCO_WHOLEBODY.sigmas[-21:] == HAND.sigmas and COCO_WHOLEBODY.sigmas[23] == 0.042
    assert HAND.flip_inds == tuple(range(21)) and MPII.oks_sigmas == (UNIFORM_SIGMA,) * 16
    assert round(np.mean(COCO_PERSON.sigmas), 3) == UNIFORM_SIGMA
    assert AP10K.names != COCO_PERSON.names and not AP10K.agrees_with(COCO_PERSON)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": "nose"}, "must be a list of texts, not 'nose'"),
        ({"names": ["a", 3]}, "must be a list of texts"),
        ({"names": ["a", "b", "a"]}, "a is more than once among the names of keypoints: a, b, a"),
        ({"skeleton": [[1, 3]]}, r"of my.json: skeleton has \[1, 3\].*an index from 0 to 2. Their names are a, b, c"),
        ({"skeleton": [["a", "a"]]}, "two different keypoints"),
        ({"skeleton": [["a", True]]}, "two different keypoints"),
        ({"skeleton": 3}, "skeleton is 3; expected a list"),
        ({"flip_pairs": [["a", "left"]]}, r"flip_pairs has \['a', 'left'\].*Their names are a, b, c"),
        ({"flip_pairs": [["a", "b"], ["c", "b"]]}, "b is in more than one of the flip_pairs"),
        ({"sigmas": [0.1, 0.1]}, "there are 2 sigmas for 3 keypoints. Their names are a, b, c"),
        ({"sigmas": [0.1, 0, 0.1]}, "one of the sigmas is 0; expected numbers above 0"),
        ({"sigmas": [0.1, float("nan"), 0.1]}, "expected numbers above 0"),
        ({"sigmas": [0.1, "0.1", 0.1]}, "one of the sigmas is '0.1'"),
        ({"colors": [[255, 0, 0]]}, "there are 1 colors for 3 keypoints"),
        ({"colors": [[255, 0, 0], [0, 0, 256], [0, 0, 0]]}, r"one of the colors is \[0, 0, 256\]"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        KeypointSpec(**{"names": ["a", "b", "c"], "source": "my.json", **arguments})


def test_plain_form_and_copies():
    for spec in (KITE, HAND, KeypointSpec(("tip", "barb"))):
        for again in (KeypointSpec.from_plain(spec.to_plain()), pickle.loads(pickle.dumps(spec)), copy.copy(spec)):
            assert again == spec and hash(again) == hash(spec) and again.flip_inds == spec.flip_inds
    for wrong in (None, ["nose"], {"flip_pairs": []}, {"names": ["a"], "limbs": []}):
        with pytest.raises(ValueError, match=r"x.pth has no usable specification"):
            KeypointSpec.from_plain(wrong, "x.pth")


def test_unnamed_keypoints():
    five = KeypointSpec.unnamed(5)
    assert not five.is_named and KITE.is_named and str(five) == "5 unnamed keypoints"
    assert five.agrees_with(KITE) and KITE.agrees_with(five) and not five.agrees_with(HAND)
    assert five.flip_inds is None and "flip_pairs" in five.flip_problem and KITE.flip_problem is None


def test_completion_from_known(caplog):
    animal = KeypointSpec(AP10K.names, source="ap10k.json", sigmas=[0.1] * 17)
    with caplog.at_level("INFO"):
        complete = complete_from_known(animal)
    assert complete.skeleton == AP10K.skeleton and complete.sigmas == (0.1,) * 17 and complete.source == "ap10k.json"
    assert "the keypoints of ap10k.json have the names of AP-10K: skeleton are taken from there" in caplog.text
    caplog.clear()
    assert complete_from_known(KITE) is KITE and complete_from_known(HAND) == HAND and not caplog.text
    sideless, _ = KeypointSpec(("tip", "barb"), ()).completed_by(KeypointSpec(("tip", "barb"), [(0, 1)]))
    assert sideless.flip_pairs == (), "known: none change places"


def test_keypoints_carry_their_specification():
    points = np.arange(15.0).reshape(1, 5, 3) + 1
    kites = Keypoints(points, (40, 30), spec=KITE)
    for other in (
        kites[[0]],
        kites.resize((80, 60)),
        kites.crop((0, 0, 9, 9)),
        kites.to("cpu"),
        Keypoints.cat([kites]),
    ):
        assert other.spec is KITE
    flipped = kites.transpose(FLIP_LEFT_RIGHT, offset=0)
    for index, name in enumerate(KITE.names):
        source = {"left_wing": "right_wing", "right_wing": "left_wing"}.get(name, name)
        x, y, visibility = points[0, KITE.names.index(source)]
        assert flipped.keypoints[0, index].tolist() == [40 - x, y, visibility]
    assert Keypoints(points, (40, 30)).spec == KeypointSpec.unnamed(5)
    assert Keypoints([], (40, 30), spec=KITE).keypoints.shape == (0, 5, 3)
    assert PersonKeypoints([], (40, 30)).spec == COCO_PERSON
    with pytest.raises(ValueError, match=r"takes 5 keypoints \(nose, .*cross\), 17 points were given"):
        Keypoints(np.zeros((1, 17, 3)), (40, 30), spec=KITE)
