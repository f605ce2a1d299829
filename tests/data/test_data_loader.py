"""Loaders as a config builds them: what is in a batch, the same data however it is loaded, and what is refused."""

import os
import pickle
import random
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data import build, make_data_loader
from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.datasets import DATASETS, COCODataset
from maskrcnn_benchmark.data.seeding import PositionedBatchSampler, SampleKey, SeededDataset, sample_randomness
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.data.coco_files import DOG, PERSON, annotation, write_coco

SIZES = [(40, 30), (30, 40), (44, 30), (36, 30), (30, 50), (40, 40), (50, 20), (31, 30), (30, 31)]


@pytest.fixture()
def catalog(monkeypatch):
    """A catalog that forgets what a test registers."""
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    return DatasetCatalog


@pytest.fixture()
def tiny(tmp_path, catalog):
    """A config of nine small images of people and dogs, as "tiny"."""
    entries = [annotation(n, n, bbox=(n, 2, 12, 9), keypoints=[5, 6, 2] * 17) for n in range(1, 10)]
    catalog.register("tiny", *write_coco(tmp_path, entries, SIZES))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny",)
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 3
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (24, 32, 40), 60
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 24, 60
    cfg.INPUT.BRIGHTNESS = cfg.INPUT.HUE = 0.3
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.TEST.IMS_PER_BATCH = 2, 8, 4
    cfg.SEED = 5
    return cfg


@pytest.fixture()
def processes(monkeypatch):
    """Pretend to be one process of several."""

    def pretend(world_size, rank):
        monkeypatch.setattr(build.comm, "get_world_size", lambda: world_size)
        monkeypatch.setattr(build.comm, "get_rank", lambda: rank)

    return pretend


def contents(loader):
    """Everything in the batches, as plain values that compare."""
    batches = []
    for images, targets, indices in loader:
        batches.append(
            (
                images.tensors.numpy().tobytes(),
                images.image_sizes,
                [(t.bbox.tolist(), t.size, t.get_field(fields.KEYPOINTS).keypoints.tolist()) for t in targets],
                [t.get_field(fields.MASKS).get_mask_tensor().tolist() for t in targets],
                list(indices),
            )
        )
    return batches


# Batches


def test_a_training_batch(tiny):
    tiny.DATALOADER.SIZE_DIVISIBILITY, tiny.INPUT.ALIGN_IMAGE_FACTOR = 16, 24
    loader = make_data_loader(tiny)
    assert len(loader) == 8
    for images, targets, indices in loader:
        height, width = images.tensors.shape[2:]
        assert images.tensors.dtype == torch.float32 and height % 48 == width % 48 == 0
        assert len(targets) == len(indices) == len(images.image_sizes) == 2
        for tensor, (h, w), target, index in zip(images.tensors, images.image_sizes, targets, indices, strict=True):
            assert target.size == (w, h) and h <= height and w <= width
            assert not tensor[:, h:].any() and not tensor[:, :, w:].any() and tensor[:, h - 1, w - 1].any()
            assert target.get_field(fields.ANNOTATION_IDS).tolist() == [index + 1]
            assert set(target.fields()) == {
                fields.LABELS, fields.ANNOTATION_IDS, fields.MASKS, fields.MASKS_PRESENT, fields.KEYPOINTS
            }  # fmt: skip


def test_batches_hold_one_shape_where_grouping_is_on(tiny):
    portrait = [height >= width for width, height in SIZES]
    epoch = [indices for _, _, indices in islice(make_data_loader(tiny), 5)]
    assert sorted({index for indices in epoch for index in indices}) == list(range(9))
    mixed = [indices for indices in epoch if len({portrait[index] for index in indices}) > 1]
    assert len(mixed) <= 1
    tiny.DATALOADER.ASPECT_RATIO_GROUPING = False
    batches = [indices for _, _, indices in make_data_loader(tiny)]
    assert any(len({portrait[index] for index in indices}) > 1 for indices in batches)


def test_the_collator_pads_to_a_multiple_and_to_the_canvas():
    samples = [(torch.ones(3, 5, 9), "a", 0), (torch.ones(3, 7, 4), "b", 2)]
    images, targets, indices = BatchCollator(4)(samples)
    assert images.tensors.shape == (2, 3, 8, 12) and images.image_sizes == [(5, 9), (7, 4)]
    assert targets == ("a", "b") and indices == (0, 2)
    assert images.tensors.sum() == 3 * (45 + 28)
    canvas = np.array([[10, 3], [99, 99], [2, 17]])
    images, _, _ = BatchCollator(0, canvas)(samples)
    assert images.tensors.shape == (2, 3, 10, 17) and images.image_sizes == [(5, 9), (7, 4)]
    assert images.tensors.sum() == 3 * (45 + 28)
    assert BatchCollator(8, canvas)(samples)[0].tensors.shape == (2, 3, 16, 24)


def test_targets_without_annotations_travel_between_processes(tmp_path, catalog, tiny):
    catalog.register("empty", *write_coco(tmp_path / "empty", [], SIZES[:3]))
    tiny.DATASETS.TRAIN, tiny.DATASETS.FILTER_EMPTY = ("empty",), False
    for _, targets, _ in make_data_loader(tiny):
        for target in targets:
            assert len(target) == 0 and len(target.fields()) == 5
            assert len(pickle.loads(pickle.dumps(target))) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_batches_for_a_gpu_are_page_locked(tiny):
    tiny.MODEL.DEVICE, tiny.DATALOADER.NUM_WORKERS = "cuda", 1
    images, targets, _ = next(iter(make_data_loader(tiny)))
    assert images.tensors.is_pinned() and all(target.bbox.is_pinned() for target in targets)
    assert images.to("cuda").tensors.is_cuda


def test_a_batch_passes_through_pinning_with_its_fields(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: seen.append(tensor) or tensor)
    batch = next(iter(make_data_loader(tiny)))
    pinned = pin_memory(batch)
    assert contents([pinned]) == contents([batch])
    assert pinned[1][0].fields() == batch[1][0].fields()
    assert len(seen) == 1 + 5 * 2  # the images; and boxes, labels, ids, masks_present and keypoints of two targets


@pytest.mark.skipif(os.name != "posix", reason="there is no such limit")
def test_the_limit_of_open_files_is_raised_for_workers_and_lowered_never():
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        build._allow_open_files()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised[0] == min(65536, before[1]) and raised[1] == before[1]
        build._allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == raised
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# The same data however it is loaded


def test_workers_make_no_difference(tiny):
    tiny.SOLVER.MAX_ITER = 6
    expected = contents(make_data_loader(tiny))
    tiny.DATALOADER.NUM_WORKERS = 2
    assert contents(make_data_loader(tiny)) == expected


def test_resuming_makes_no_difference(tiny):
    expected = contents(make_data_loader(tiny))
    for start in (1, 4, 5, 7):  # an epoch has five iterations
        assert contents(make_data_loader(tiny, start_iter=start)) == expected[start:]
    assert len(make_data_loader(tiny, start_iter=8)) == 0


def test_accumulated_iterations_are_loaded_in_one_step(tiny):
    expected = contents(make_data_loader(tiny))
    tiny.SOLVER.MAX_ITER, tiny.SOLVER.ACCUMULATE = 4, 2
    assert contents(make_data_loader(tiny)) == expected
    assert contents(make_data_loader(tiny, start_iter=3)) == expected[6:]


def test_seeds_epochs_and_places_differ(tiny):
    tiny.SOLVER.MAX_ITER = 20
    first = contents(make_data_loader(tiny))
    tiny.SEED = 6
    assert contents(make_data_loader(tiny)) != first
    seen = {}
    for images, sizes, _, _, indices in first:
        for index in indices:
            seen.setdefault(index, set()).add((images, tuple(sizes)))
    assert all(len(looks) > 2 for looks in seen.values())  # an image is not augmented alike in each epoch


def test_loading_leaves_the_random_numbers_of_training_alone(tiny):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    contents(make_data_loader(tiny))
    tiny.DATALOADER.NUM_WORKERS = 1
    list(make_data_loader(tiny))
    list(make_data_loader(tiny, is_train=False)[0])
    assert state() == before


def test_a_sample_is_seeded_in_all_three_libraries():
    def draw(seed, position):
        with sample_randomness(seed, position):
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw(3, 4) == draw(3, 4)
    draws = [draw(seed, position) for seed in range(4) for position in range(4)]
    assert len({value for triple in draws for value in triple}) == 48
    with pytest.raises(KeyError), sample_randomness(0, 0):
        raise KeyError  # the state is put back then, too


def test_a_dataset_of_ones_own_is_seeded_too(catalog, tiny, monkeypatch):
    class Noise(Dataset):
        class_names = ["__background__", "a", "b"]

        def __init__(self, transforms, size):
            self.size = size

        def __len__(self):
            return 5

        def get_img_info(self, index):
            return {"width": self.size, "height": self.size}

        def __getitem__(self, index):
            pixels = torch.from_numpy(np.random.rand(3, self.size, self.size)) * random.random()
            return pixels, BoxList([], (self.size, self.size)), index

    monkeypatch.setitem(DATASETS, "Noise", Noise)
    monkeypatch.setattr(catalog, "get", lambda name: {"factory": "Noise", "args": {"size": 6}})
    monkeypatch.setattr(catalog, "check", lambda names: None)

    def load(**options):
        return [images.tensors.tolist() for images, _, _ in make_data_loader(tiny, **options)]

    expected = load()
    tiny.DATALOADER.NUM_WORKERS = 2
    assert load(start_iter=3) == expected[3:]
    assert np.unique(np.concatenate(expected, axis=None)).size > 1000


def test_keys_and_the_wrapped_dataset():
    batches = PositionedBatchSampler([[7, 3], [1], [2, 0]], 2, start_iter=10, num_replicas=3, rank=1)
    assert list(batches) == [
        [SampleKey(7, 62), SampleKey(3, 63)], [SampleKey(1, 68)], [SampleKey(2, 74), SampleKey(0, 75)]
    ]  # fmt: skip
    wrapped = SeededDataset([10, 20, 30], 1)
    assert wrapped[SampleKey(2, 9)] == 30 and len(wrapped) == 3 and wrapped.index(20) == 1
    assert pickle.loads(pickle.dumps(wrapped))[SampleKey(0, 0)] == 10
    with pytest.raises(AttributeError):
        wrapped.nothing  # noqa: B018


def test_without_a_seed_one_is_drawn(tiny):
    tiny.SEED = -1
    assert len(list(make_data_loader(tiny))) == 8


# Several processes


def test_processes_train_on_different_images(tiny, processes):
    tiny.SOLVER.IMS_PER_BATCH, tiny.SOLVER.MAX_ITER = 4, 3
    seen = []
    for rank in range(2):
        processes(2, rank)
        loader = make_data_loader(tiny, is_distributed=True)
        batches = list(loader)
        assert [len(indices) for _, _, indices in batches] == [2, 2, 2]
        seen.append([index for _, _, indices in batches for index in indices])
    assert set(seen[0] + seen[1]) == set(range(9)) and len(set(seen[0]) & set(seen[1])) <= 3  # 12 places, 9 images


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_processes_test_every_image_once_and_see_the_same_pixels(tiny, processes, world_size):
    tiny.DATALOADER.SIZE_DIVISIBILITY = 8

    def looks(rank, world_size):
        processes(world_size, rank)
        [loader] = make_data_loader(tiny, is_train=False, is_distributed=True)
        return [
            (index, pixels.shape, pixels.numpy().tobytes(), size)
            for images, _, indices in loader
            for index, pixels, size in zip(indices, images.tensors, images.image_sizes, strict=True)
        ]

    alone = looks(0, 1)
    assert [look[0] for look in alone] == list(range(9))
    shared = [looks(rank, world_size) for rank in range(world_size)]
    assert sorted((look for part in shared for look in part), key=lambda look: look[0]) == alone
    assert len({shape for _, shape, _, _ in alone}) > 1  # groups of four, each with a size of its own


def test_one_process_of_several_can_have_all_images(tiny, processes):
    processes(4, 1)
    [loader] = make_data_loader(tiny, is_train=False, is_distributed=False)
    assert sum(len(indices) for _, _, indices in loader) == 9


def test_a_batch_that_the_processes_cannot_share_is_refused(tiny, processes):
    processes(3, 0)
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH is 2, .*number of processes, 3"):
        make_data_loader(tiny, is_distributed=True)
    tiny.TEST.IMS_PER_BATCH = 0
    with pytest.raises(ValueError, match="TEST.IMS_PER_BATCH is 0"):
        make_data_loader(tiny, is_train=False)


# Datasets and the model


def test_number_of_classes_is_compared_with_the_dataset(tiny):
    for num_classes in (2, 81):
        tiny.MODEL.ROI_BOX_HEAD.NUM_CLASSES = num_classes
        for is_train in (True, False):
            message = rf"NUM_CLASSES is {num_classes}, but tiny has 2 categories \(person, dog\).* set NUM_CLASSES to 3"
            with pytest.raises(ValueError, match=message):
                make_data_loader(tiny, is_train=is_train)
    tiny.MODEL.RPN_ONLY = True  # knows objects, no classes
    make_data_loader(tiny)
    tiny.MODEL.RETINANET_ON = True  # knows classes again
    with pytest.raises(ValueError, match=r"MODEL.RETINANET.NUM_CLASSES is 81, but tiny has 2 categories"):
        make_data_loader(tiny)
    tiny.MODEL.RETINANET.NUM_CLASSES = 3
    make_data_loader(tiny)


def test_joined_datasets_must_number_their_categories_alike(tmp_path, catalog, tiny):
    one, other = [annotation(1)], [annotation(1, category_id=18)]
    catalog.register("people", *write_coco(tmp_path / "people", one, categories=[PERSON]))
    catalog.register("dogs", *write_coco(tmp_path / "dogs", other, categories=[DOG, PERSON]))
    tiny.DATASETS.TRAIN, tiny.DATASETS.MIN_KEYPOINTS = ("tiny", "people"), 0
    loader = make_data_loader(tiny)
    assert len(loader.dataset) == 10 and loader.dataset.class_names == ["__background__", "person", "dog"]
    assert {index for _, _, indices in islice(loader, 5) for index in indices} == set(range(10))
    tiny.DATASETS.TRAIN = ("tiny", "dogs")
    with pytest.raises(ValueError, match="label 1 is 'dog' in dogs and 'person' in tiny"):
        make_data_loader(tiny)
    tiny.DATASETS.TEST = ("tiny", "dogs")  # tested one by one, each by its own file
    assert len(make_data_loader(tiny, is_train=False)) == 2


def test_another_skeleton_cannot_be_mirrored(tiny):
    tiny.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES = 4
    tiny.DATASETS.FILTER_EMPTY = False
    with pytest.raises(
        ValueError, match="tiny: it is not known which of the 4 unnamed keypoints .*HORIZONTAL_FLIP_PROB_TRAIN"
    ):
        make_data_loader(tiny)


def test_what_the_config_filters_for_training_is_there_for_testing(tmp_path, catalog, tiny):
    entries = [annotation(1, 1, keypoints=[1, 1, 2] * 9 + [0] * 24), annotation(2, 2, keypoints=[1, 1, 1] * 17)]
    catalog.register("few", *write_coco(tmp_path / "few", entries, SIZES[:3]))
    tiny.DATASETS.TRAIN = tiny.DATASETS.TEST = ("few",)
    assert make_data_loader(tiny).dataset.ids == [2]
    assert make_data_loader(tiny, is_train=False)[0].dataset.ids == [1, 2, 3]
    tiny.DATASETS.MIN_KEYPOINTS = 0
    assert make_data_loader(tiny).dataset.ids == [1, 2]
    tiny.DATASETS.FILTER_EMPTY = False
    assert make_data_loader(tiny).dataset.ids == [1, 2, 3]
    tiny.MODEL.BOX_OFFSET = 0
    assert make_data_loader(tiny).dataset.offset == 0


def test_unusable_names_are_told(tiny):
    tiny.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        make_data_loader(tiny)
    tiny.DATASETS.TEST = ()
    assert make_data_loader(tiny, is_train=False) == []
    tiny.DATASETS.TRAIN = ("tinny",)
    with pytest.raises(KeyError, match="did you mean tiny"):
        make_data_loader(tiny)
    tiny.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    with pytest.raises(FileNotFoundError, match="person_keypoints_train2017.json"):
        make_data_loader(tiny)


def test_a_catalog_of_ones_own(tmp_path, tiny):
    ann_file, root = write_coco(tmp_path / "own", [annotation(1)])
    entry = {"factory": "COCODataset", "args": {"ann_file": ann_file, "root": root}}
    path = tmp_path / "catalog.py"
    path.write_text(f"class DatasetCatalog:\n    @staticmethod\n    def get(name):\n        return {entry!r}\n")
    tiny.PATHS_CATALOG, tiny.DATASETS.TEST = str(path), ("anything",)
    [loader] = make_data_loader(tiny, is_train=False)
    assert isinstance(loader.dataset, COCODataset) and len(loader.dataset) == 1


def test_a_catalog_that_is_handed_in_wins_over_the_config_s(tmp_path, tiny):
    ann_file, root = write_coco(tmp_path / "own", [annotation(1)])

    class Catalog:
        checked = []

        @classmethod
        def check(cls, names):
            cls.checked += names

        @staticmethod
        def get(name):
            return {"factory": "COCODataset", "args": {"ann_file": ann_file, "root": root}}

    tiny.PATHS_CATALOG, tiny.DATASETS.TEST = str(tmp_path / "nowhere.py"), ("anything",)
    [loader] = make_data_loader(tiny, is_train=False, catalog=Catalog)
    assert len(loader.dataset) == 1 and Catalog.checked == ["anything"]
    with pytest.raises(FileNotFoundError, match="nowhere.py"):
        make_data_loader(tiny, is_train=False)


# Real images


@pytest.mark.parametrize("offset", [0, 1])
def test_coco_images_end_to_end(coco_mini, catalog, offset):
    folder = coco_mini / "annotations"
    catalog.register("mini_train", folder / "person_keypoints_train2017.json", coco_mini / "train2017")
    catalog.register("mini_val", folder / "instances_val2017.json", coco_mini / "val2017")
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("mini_train",), ("mini_val",)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 2
    cfg.MODEL.DEVICE, cfg.MODEL.BOX_OFFSET = "cpu", offset
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (120, 160), 240
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 120, 200
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.SIZE_DIVISIBILITY = 0, 32
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SEED = 4, 6, 1
    for images, targets, _ in make_data_loader(cfg):
        assert images.tensors.isfinite().all() and images.tensors.shape[2] % 32 == 0
        for target in targets:
            width, height = target.size
            x1, y1, x2, y2 = target.extents().unbind(1)
            margin = offset + 1e-3  # corners that name pixels are not quite where they were after scaling
            assert min(x1.min(), y1.min()) >= -margin and max(x2.max() - width, y2.max() - height) <= margin
            points = target.get_field(fields.KEYPOINTS).keypoints
            assert points.shape == (len(target), 17, 3) and not points[points[..., 2] == 0].any()
            masks = target.get_field(fields.MASKS).get_mask_tensor()
            for mask, box in zip(masks, target.extents(), strict=True):  # a mask fills its box, but for thin tips
                rows, columns = mask.nonzero().unbind(1)
                if len(rows) > 30:
                    drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                    assert np.abs(drawn - box.numpy()).max() < 2.5 + 0.1 * (box[2:] - box[:2]).max()
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = False, 81
    [loader] = make_data_loader(cfg, is_train=False)
    assert [index for _, _, indices in loader for index in indices] == list(range(40))
