"""Values on their way into the tree: types that fit, types that do not, keys that nobody knows."""

import logging

import pytest

from maskrcnn_benchmark.config import ConfigError, UnknownKeyError, get_cfg, load_config

# ---- types ----


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("INPUT.MAX_SIZE_TRAIN", 1000, 1000),
        ("INPUT.MAX_SIZE_TRAIN", "(1000,)", (1000,)),
        ("INPUT.MAX_SIZE_TRAIN", [1000, 1200], (1000, 1200)),
        ("INPUT.MIN_SIZE_TRAIN", 640, (640,)),
        ("INPUT.MIN_SIZE_TRAIN", [640, 800], (640, 800)),
        ("INPUT.PIXEL_STD", (1, 1, 1), [1, 1, 1]),
        ("SOLVER.BASE_LR", 1, 1.0),
        ("SOLVER.BASE_LR", "2e-2", 0.02),
        ("SOLVER.MAX_ITER", "9e4", 90000),
        ("SOLVER.WEIGHT_DECAY_BIAS", "0.0001", 0.0001),
        ("SOLVER.WEIGHT_DECAY_BIAS", 0, 0),
        ("MODEL.RPN.ANCHOR_SIZES", "((32, 64), (128,))", ((32, 64), (128,))),
        ("MODEL.MASK_ON", "True", True),
        ("MODEL.WEIGHT", None, ""),
        ("MODEL.WEIGHT", "catalog://ImageNetPretrained/MSRA/R-50", "catalog://ImageNetPretrained/MSRA/R-50"),
        ("DATASETS.TRAIN", None, ()),
        ("DATASETS.TRAIN", "('a', 'b')", ("a", "b")),
        ("DATASETS.TRAIN", "coco_2017_train", ("coco_2017_train",)),
        ("DATASETS.TEST", "('coco_2017_val')", ("coco_2017_val",)),
        ("OUTPUT_DIR", "2024", "2024"),
        ("MODEL.FBNET.ARCH_DEF", "{'a': 1}", "{'a': 1}"),
        ("MODEL.ROI_REFINE_HEAD.INDICATORS", "mask", ("mask",)),
        ("MODEL.ROI_REFINE_HEAD.INDICATORS", "()", ()),
        ("TEST.MULTI_SIZES", "[(480, 800)]", [(480, 800)]),
    ],
)
def test_values_of_either_code_base_fit(key, given, expected):
    cfg = get_cfg()
    cfg.merge_from_list([key, given])
    value = cfg
    for name in key.split("."):
        value = value[name]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "given", "kind", "expected_kind"),
    [
        ("SOLVER.MAX_ITER", "many", "str", "int"),
        ("SOLVER.MAX_ITER", "1.5", "float", "int"),
        ("SOLVER.MAX_ITER", True, "bool", "int"),
        ("SOLVER.MAX_ITER", None, "NoneType", "int"),
        ("SOLVER.STEPS", "30000", "int", "tuple"),
        ("MODEL.MASK_ON", "1", "int", "bool"),
        ("MODEL.MASK_ON", "yes", "str", "bool"),
        ("MODEL.RPN.ANCHOR_SIZES", "('32', '64')", "tuple", "tuple"),
        ("MODEL.ROI_HEADS.NMS", "(0.5,)", "tuple", "float"),
        ("INPUT.MAX_SIZE_TRAIN", "large", "str", "int or tuple"),
        ("MODEL.ROI_REFINE_HEAD.OUTPUTS", 3, "tuple", "tuple"),
    ],
)
def test_a_wrong_type_names_key_value_and_both_types(key, given, kind, expected_kind):
    cfg = get_cfg()
    with pytest.raises(ConfigError) as caught:
        cfg.merge_from_list([key, given])
    message = str(caught.value)
    assert message.startswith(f"{key} (the command line) is ")
    assert f"a {kind};" in message
    assert f"expected {expected_kind}, such as" in message
    assert cfg == get_cfg()


# ---- keys ----


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("MODEL.MASK_ONN", "MODEL.MASK_ON"),
        ("SOLVER.BASE_LRATE", "SOLVER.BASE_LR"),
        ("MODEL.ROI_HEAD.NMS", "MODEL.ROI_HEADS.NMS"),
        ("ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO"),
        ("BASE_LR", "SOLVER.BASE_LR"),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest_neighbour(key, suggestion):
    with pytest.raises(UnknownKeyError) as caught:
        load_config(opts=[key, "1"])
    assert str(caught.value) == f"unknown config key {key} (the command line); did you mean {suggestion}?"
    assert isinstance(caught.value, KeyError)  # what yacs raises


def test_a_key_like_no_other_gets_no_suggestion():
    with pytest.raises(UnknownKeyError, match=r"unknown config key QQQ \(the command line\)\.$"):
        load_config(opts=["QQQ", 1])


def test_a_mistyped_attribute_gets_a_suggestion():
    with pytest.raises(AttributeError, match="did you mean MASK_ON?"):
        _ = get_cfg().MODEL.MASK_ONN


def test_all_bad_keys_are_listed_and_nothing_is_merged():
    cfg = get_cfg()
    with pytest.raises(UnknownKeyError) as caught:
        cfg.merge_from_list(["MODEL.MASK_ON", True, "MODEL.X1", 1, "SOLVER.MAX_ITER", "x", "MODEL.X2", 1])
    lines = str(caught.value).splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "unknown config key MODEL.X1",
        "SOLVER.MAX_ITER",
        "unknown config key MODEL.X2",
    ]
    assert not cfg.MODEL.MASK_ON


def test_a_value_for_a_section_and_a_section_for_a_value_are_refused():
    with pytest.raises(ConfigError, match=r"MODEL.RPN \(the command line\) is a section, .* got the value 3"):
        get_cfg().merge_from_list(["MODEL.RPN", 3])
    with pytest.raises(UnknownKeyError, match="MODEL.MASK_ON.DEEP"):
        get_cfg().merge_from_list(["MODEL.MASK_ON.DEEP", 3])


def test_overrides_that_are_no_pairs_are_refused():
    with pytest.raises(ConfigError, match="come in pairs, KEY VALUE; got 3 words: DATASETS.TRAIN \\('a', 'b'\\)"):
        get_cfg().merge_from_list(["DATASETS.TRAIN", "('a',", "'b')"])


def test_the_dashes_that_end_options_are_skipped():
    assert load_config(opts=["--", "SOLVER.MAX_ITER", "3"]).SOLVER.MAX_ITER == 3


def test_lenient_loading_warns_about_unknown_keys_only(tmp_path, caplog):
    path = tmp_path / "other.yaml"
    path.write_text("MODEL:\n  MASK_ON: False\n  NOVELTY:\n    DEPTH: 3\nSOLVER:\n  MAX_ITER: 5\n")
    with caplog.at_level(logging.WARNING):
        cfg = load_config(path, ["MODEL.MORE", 1], lenient=True)
    assert cfg.SOLVER.MAX_ITER == 5
    assert "unknown config key MODEL.NOVELTY.DEPTH" in caplog.text
    assert "unknown config key MODEL.MORE" in caplog.text
    path.write_text("SOLVER:\n  MAX_ITER: five\n")
    with pytest.raises(ConfigError, match="SOLVER.MAX_ITER"):
        load_config(path, lenient=True)


# ---- keys that set others ----


@pytest.mark.parametrize("key", ["MODEL.BACKBONE.OUT_CHANNELS", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS"])
def test_both_names_of_the_backbone_width_say_the_same(key):
    cfg = get_cfg()
    cfg.merge_from_list([key, 256])
    assert cfg.MODEL.BACKBONE.OUT_CHANNELS == cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS == 256


def test_enable_fp16_sets_the_dtype_unless_that_is_given():
    assert load_config(opts=["SOLVER.ENABLE_FP16", True]).DTYPE == "float16"
    assert load_config(opts=["SOLVER.ENABLE_FP16", False]).DTYPE == "float32"
    assert load_config(opts=["SOLVER.ENABLE_FP16", True, "DTYPE", "bfloat16"]).DTYPE == "bfloat16"


# ---- what yacs offers still works ----


def test_deprecated_and_renamed_keys_and_new_sections_are_yacs_s():
    cfg = get_cfg()
    cfg.register_deprecated_key("MODEL.OLD")
    cfg.register_renamed_key("MODEL.BEFORE", "MODEL.AFTER")
    cfg.merge_from_list(["MODEL.OLD", 1])
    with pytest.raises(KeyError, match="renamed to MODEL.AFTER"):
        cfg.merge_from_list(["MODEL.BEFORE", 1])
    cfg.set_new_allowed(True)
    cfg.merge_from_list(["MODEL.MINE.DEPTH", "3"])
    assert cfg.MODEL.MINE.DEPTH == 3


def test_merging_a_tree_and_a_section(tmp_path):
    other = get_cfg()
    other.SOLVER.MAX_ITER = 17
    cfg = get_cfg()
    cfg.merge_from_other_cfg(other)
    cfg.INPUT.merge_from_list(["MAX_SIZE_TRAIN", (900,)])
    assert (cfg.SOLVER.MAX_ITER, cfg.INPUT.MAX_SIZE_TRAIN) == (17, (900,))


def test_a_frozen_tree_refuses_assignments():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError, match="immutable"):
        cfg.MODEL.MASK_ON = True
