"""Bytes and seconds that are predicted for a job."""

from __future__ import annotations

from dataclasses import replace

from mpitile.plan.clusters.devices import Devices, cluster_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.predict import Prediction, predict
from mpitile.plan.memory.bytes import plan_bytes
from mpitile.plan.partition import Partition
from mpitile.train.planning import ITEMSIZES, run_demand
from mpitile.train.setup import Job


def job_bytes(job: Job, devices: Devices | None = None) -> tuple[dict[str, int], ...]:
    """For each rank, the bytes by kind that training allocates, its feeders' included.

    Parameters
    ----------
    devices : which ranks share one; those that were planned for if left out.
    """
    demand = run_demand(job.settings, job.pass_images, job.optimizer)
    demand = replace(demand, devices=devices or cluster_devices(job.cluster))
    return plan_bytes(Partition(job.network, job.plan), demand)


def job_seconds(job: Job) -> Prediction:
    """Of a step, on the cluster that was planned for."""
    cost = Cost(job.network, job.cluster, ITEMSIZES[job.settings.train.dtype])
    return predict(
        Partition(job.network, job.plan),
        cost,
        job.batch,
        job.optimizer,
        job.subdivisions,
        job.settings.train.overlap,
    )
