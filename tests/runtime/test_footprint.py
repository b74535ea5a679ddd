"""What is predicted from the plan is what a program allocates."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.plan.partition import Partition
from mpitile.runtime.footprint import program_bytes
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program


@settings(deadline=None, max_examples=60)
@given(
    cases(),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_every_rank_allocates_what_was_predicted(case, dtype, training, gradient, merge):
    network, plan = case.network, case.plan
    images = case.batch // plan.replicas
    partition = Partition(network, plan)

    def allocate(comm):
        topology = make_topology(comm, plan)
        parameters = Parameters(network, dtype)
        program = Program(
            partition, topology, parameters, images, training, gradient, merge_pools=merge
        )
        arrays = [parameters.values, parameters.running, parameters.gradients]
        arrays += [program.values[0].array, program._workspace, program._scratch]
        held = sum(array.nbytes for array in arrays) + len(program._arena._memory)
        held += sum(group.exchange.bytes for group in program._groups)
        return topology.tile, program.bytes, held

    for tile, allocated, held in run_ranks(plan.ranks, allocate):
        predicted = program_bytes(partition, tile, images, dtype, training, gradient, merge)
        assert predicted == allocated
        assert sum(predicted.values()) == held
        assert min(predicted.values()) >= 0
