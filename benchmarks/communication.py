"""What communication adds to a training step on many GPUs. Formulas, nothing is measured here.

Their assumptions are listed in benchmarks/scale_model.py, which prints plans made with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BUCKET_BYTES = 25 * 2**20  # DistributedDataParallel's own bucket_cap_mb
FLOAT32, BFLOAT16 = 4, 2  # bytes


@dataclass(frozen=True)
class Links:
    """What the GPUs of a cluster are connected by.

    Attributes:
        gpus_per_node: GPUs that share NVLink, and a network connection.
        nvlink_gb_s: of each GPU, in each direction, in 1e9 bytes a second.
        network_gbps: of each node, in each direction, in 1e9 bits a second.
        nvlink_us: one hop inside a node, in microseconds.
        network_us: one hop between nodes.
    """

    gpus_per_node: int
    nvlink_gb_s: float
    network_gbps: float
    nvlink_us: float
    network_us: float

    def nodes(self, num_gpus: int) -> int:
        return math.ceil(num_gpus / self.gpus_per_node)

    def all_reduce_s(self, num_bytes: float, num_gpus: int, pieces: int) -> float:
        """Seconds to sum so many bytes of each GPU, in so many pieces, one after the other."""
        inside, nodes = min(num_gpus, self.gpus_per_node), self.nodes(num_gpus)
        carried_s = 2 * (inside - 1) / inside * num_bytes / (1e9 * self.nvlink_gb_s)
        carried_s += 2 * (nodes - 1) / nodes * num_bytes / (1e9 / 8 * self.network_gbps)
        between = min(2 * (nodes - 1), 2 * math.ceil(math.log2(nodes)))
        hops_us = 2 * (inside - 1) * self.nvlink_us + between * self.network_us
        return carried_s + pieces * 1e-6 * hops_us

    def gather_s(self, num_bytes: float, num_gpus: int, pieces: int) -> float:
        """Seconds until each GPU has all of so many bytes, of which each has an equal part."""
        nodes, bandwidth = self.nodes(num_gpus), 1e9 * self.nvlink_gb_s
        if nodes > 1:
            bandwidth = min(bandwidth, 1e9 / 8 * self.network_gbps)
        carried_s = (num_gpus - 1) / num_gpus * num_bytes / bandwidth
        hops_us = (num_gpus - nodes) * self.nvlink_us + (nodes - 1) * self.network_us
        return carried_s + pieces * 1e-6 * hops_us


@dataclass(frozen=True)
class Work:
    """What one GPU does in a step.

    Attributes:
        step_s: alone.
        passes: a step costs as much as so many forward passes, the first of which is forward.
        num_params: parameters of the model.
        num_linear: how many of them are in linear layers of the blocks, and travel in bfloat16.
        num_blocks: blocks of the model.
        overlap: share of the computation under which communication is hidden, 0 to 1.
    """

    step_s: float
    passes: int
    num_params: int
    num_linear: int
    num_blocks: int
    overlap: float

    @property
    def forward_s(self) -> float:
        return self.step_s / self.passes

    @property
    def backward_s(self) -> float:
        return self.step_s - self.forward_s


def ddp_step_s(work: Work, links: Links, num_gpus: int) -> float:
    """Seconds of a step with DistributedDataParallel."""
    num_bytes = FLOAT32 * work.num_params
    buckets = math.ceil(num_bytes / BUCKET_BYTES)
    reduce_s = links.all_reduce_s(num_bytes, num_gpus, buckets)
    return work.step_s + seen_s(reduce_s, work.overlap * work.backward_s, buckets)


def fsdp2_step_s(work: Work, links: Links, num_gpus: int) -> float:
    """Seconds of a step with ``fully_shard`` as ``runtime.parallel`` applies it.

    The pieces: the linear layers of each block, the rest of each block, the rest of the model.
    """
    pieces = 2 * work.num_blocks + 1
    gathered_bytes = BFLOAT16 * work.num_linear + FLOAT32 * (work.num_params - work.num_linear)
    gather_s = links.gather_s(gathered_bytes, num_gpus, pieces)
    scatter_s = links.gather_s(FLOAT32 * work.num_params, num_gpus, pieces)
    forward_s = seen_s(gather_s, work.overlap * work.forward_s, pieces)
    backward_s = seen_s(gather_s + scatter_s, work.overlap * work.backward_s, pieces)
    return work.step_s + forward_s + backward_s


STRATEGIES = {"ddp": ddp_step_s, "fsdp2": fsdp2_step_s}


def seen_s(communication_s: float, hidden_s: float, pieces: int) -> float:
    """What communication adds to a step: all that does not hide, and one piece at least."""
    return max(communication_s - hidden_s, communication_s / pieces)
