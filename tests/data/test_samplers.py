"""Which images come when: coverage, grouping, shares of processes, and starting in the middle."""

from itertools import chain, islice

import numpy as np
import pytest

from maskrcnn_benchmark.data.build import aspect_ratio_groups
from maskrcnn_benchmark.data.samplers import (
    DistributedSampler,
    GroupedBatchSampler,
    IterationBasedBatchSampler,
    RoundRobinBatchSampler,
)

GROUPS = (np.random.default_rng(5).random(103) < 0.3).astype(int).tolist()


def shares(length, replicas, epoch=0, **options):
    samplers = [DistributedSampler(range(length), replicas, rank, **options) for rank in range(replicas)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    assert all(len(list(sampler)) == len(sampler) for sampler in samplers)
    return [list(sampler) for sampler in samplers]


def train_batches(length, replicas, rank, batch_size, iterations, start=0, seed=3):
    sampler = DistributedSampler(range(length), replicas, rank, seed=seed, multiple=batch_size)
    return list(IterationBasedBatchSampler(GroupedBatchSampler(sampler, GROUPS, batch_size), iterations, start))


# DistributedSampler


@pytest.mark.parametrize("length", [1, 2, 3, 24, 103])
@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
def test_an_epoch_has_every_image(length, replicas):
    parts = shares(length, replicas)
    assert {index for part in parts for index in part} == set(range(length))
    assert len({len(part) for part in parts}) == 1
    assert sum(map(len, parts)) < length + replicas
    uneven = shares(length, replicas, multiple=0)
    assert sorted(chain(*uneven)) == list(range(length))
    filled = shares(length, replicas, multiple=4)
    assert {len(part) % 4 for part in filled} == {0}
    assert length <= sum(map(len, filled)) < length + 4 * replicas


def test_order_is_a_function_of_seed_and_epoch():
    assert shares(50, 2, epoch=4, seed=9) == shares(50, 2, epoch=4, seed=9)
    orders = [tuple(shares(50, 1, epoch=epoch, seed=seed)[0]) for epoch in range(3) for seed in range(3)]
    assert len(set(orders)) == 9
    assert shares(7, 2, shuffle=False) == [[0, 2, 4, 6], [1, 3, 5, 0]]


def test_processes_share_one_order():
    [alone] = shares(48, 1, seed=2)
    parts = shares(48, 4, seed=2)
    assert [index for together in zip(*parts, strict=True) for index in together] == alone


def test_a_rank_outside_the_group_is_refused():
    with pytest.raises(ValueError, match="rank is 2, but there are 2 processes"):
        DistributedSampler(range(4), 2, 2)


# GroupedBatchSampler


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7])
def test_grouped_batches_cover_the_epoch(batch_size):
    order = np.random.default_rng(1).permutation(103).tolist()
    sampler = GroupedBatchSampler(order, GROUPS, batch_size)
    batches = list(sampler)
    assert sorted(chain(*batches)) == list(range(103))
    assert len(batches) == len(sampler) == -(-103 // batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    mixed = [batch for batch in batches if len({GROUPS[index] for index in batch}) > 1]
    assert len(mixed) <= 1  # the remains of two groups need one batch at the most
    for group in (0, 1):  # the sampler's order is kept within a group
        kept = [index for batch in batches if batch not in mixed for index in batch if GROUPS[index] == group]
        places = [order.index(index) for index in kept]
        assert places == sorted(places)


def test_grouped_batches_come_as_soon_as_they_are_full():
    batches = GroupedBatchSampler([0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 1, 0, 1], 2)
    assert list(batches) == [[0, 2], [1, 4], [3, 5], [6]]
    dropping = GroupedBatchSampler([0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 1, 0, 1], 2, drop_uneven=True)
    assert list(dropping) == [[0, 2], [1, 4], [3, 5]]
    endless = GroupedBatchSampler(iter(int, 1), [0], 3)  # indices 0, 0, 0, ... for ever: nothing is read ahead
    assert list(islice(endless, 2)) == [[0, 0, 0]] * 2
    with pytest.raises(ValueError, match="batch_size is 0"):
        GroupedBatchSampler([1], [0], 0)


def test_aspect_ratio_groups():
    sizes = np.array([[640, 480], [480, 640], [500, 500], [641, 640], [640, 641]])
    assert aspect_ratio_groups(sizes).tolist() == [0, 1, 1, 0, 1]
    assert aspect_ratio_groups(sizes, (0.75, 1.0, 1.2)).tolist() == [1, 3, 2, 1, 2]


# IterationBasedBatchSampler


@pytest.mark.parametrize("replicas", [1, 2])
def test_starting_anywhere_gives_what_an_uninterrupted_run_gives(replicas):
    for rank in range(replicas):
        whole = train_batches(103, replicas, rank, 4, 70)
        assert len(whole) == 70
        for start in range(71):  # 26 or 13 iterations are an epoch: every place of more than two
            assert train_batches(103, replicas, rank, 4, 70, start) == whole[start:]


def test_training_has_full_batches_and_each_epoch_every_image():
    for replicas in (1, 2, 3):
        steps = -(-103 // (4 * replicas))
        runs = [train_batches(103, replicas, rank, 4, 3 * steps) for rank in range(replicas)]
        assert {len(batch) for run in runs for batch in run} == {4}
        for epoch in range(3):
            seen = list(chain(*(batch for run in runs for batch in run[epoch * steps : (epoch + 1) * steps])))
            assert set(seen) == set(range(103)) and len(seen) == 4 * replicas * steps


def test_processes_see_different_images():
    first, second = (set(chain(*train_batches(96, 2, rank, 4, 12))) for rank in range(2))
    assert not first & second and len(first | second) == 96


def test_a_batch_sampler_without_length_or_epochs_can_be_resumed_too():
    batches = GroupedBatchSampler(list(range(11)), [0] * 11, 2, drop_uneven=True)
    whole = list(IterationBasedBatchSampler(batches, 23))
    assert whole[:6] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [0, 1]]
    assert list(IterationBasedBatchSampler(batches, 23, 13)) == whole[13:]
    assert len(IterationBasedBatchSampler(batches, 23, 13)) == 10
    assert list(IterationBasedBatchSampler(batches, 5, 9)) == [] and len(IterationBasedBatchSampler(batches, 5, 9)) == 0


def test_a_batch_sampler_without_batches_is_refused():
    empty = GroupedBatchSampler([0], [0], 2, drop_uneven=True)
    with pytest.raises(ValueError, match="empty or smaller than one batch"):
        list(IterationBasedBatchSampler(empty, 3))
    with pytest.raises(ValueError, match="empty or smaller than one batch"):
        list(IterationBasedBatchSampler(GroupedBatchSampler([], [], 2), 3))


def test_a_large_dataset_is_passed_over_quickly():
    sampler = DistributedSampler(range(120_000), 8, 3, seed=1, multiple=2)
    groups = np.random.default_rng(0).integers(0, 2, 120_000).tolist()
    batches = IterationBasedBatchSampler(GroupedBatchSampler(sampler, groups, 2), 720_000, 719_999)
    assert len(list(batches)) == 1  # 95 epochs: would take a minute if they were drawn


# RoundRobinBatchSampler


@pytest.mark.parametrize("length", [0, 1, 7, 16, 41])
@pytest.mark.parametrize(("group", "batch", "replicas"), [(8, 8, 1), (8, 4, 2), (8, 2, 3), (1, 1, 2), (6, 1, 6)])
def test_evaluation_has_every_image_once(length, group, batch, replicas):
    parts = [RoundRobinBatchSampler(length, group, batch, replicas, rank) for rank in range(replicas)]
    batches = [one for part in parts for one in part]
    assert sorted(chain(*batches)) == list(range(length))
    assert all(1 <= len(one) <= batch for one in batches)
    assert all(one[0] // group == one[-1] // group and one == list(range(one[0], one[-1] + 1)) for one in batches)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [len(list(part)) for part in parts] == [len(part) for part in parts]


def test_batches_larger_than_their_group_are_refused():
    with pytest.raises(ValueError, match="batches of 5 images do not fit into groups of 4"):
        RoundRobinBatchSampler(10, 4, 5)
