"""The order of the images, and their division into batches."""

from maskrcnn_benchmark.data.samplers.distributed import DistributedSampler
from maskrcnn_benchmark.data.samplers.grouped_batch_sampler import GroupedBatchSampler
from maskrcnn_benchmark.data.samplers.iteration_based_batch_sampler import IterationBasedBatchSampler
from maskrcnn_benchmark.data.samplers.round_robin_batch_sampler import RoundRobinBatchSampler

__all__ = ["DistributedSampler", "GroupedBatchSampler", "IterationBasedBatchSampler", "RoundRobinBatchSampler"]
