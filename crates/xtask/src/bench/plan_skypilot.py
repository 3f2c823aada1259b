"""SkyPilot's optimizer on a chain of tasks: its dynamic programme, given what its catalogue would have told it.

Its public entry asks credentials and price catalogues of real clouds, which can't describe sites of one's own. So the
tasks' prices on each candidate are handed to the step that decides, and each site is a cloud with its egress price.
Reads the world as JSON from the file given, and prints seconds and cost as JSON.
"""

import json
import statistics
import sys
import time

import networkx as nx
from sky import clouds, dag as sky_dag, optimizer, resources, task as sky_task

Optimizer = optimizer.Optimizer


class Candidate(resources.Resources):
    """A site, without the checks that its cloud is one that SkyPilot knows."""

    def __init__(self, cloud):
        self._cloud = cloud

    @property
    def cloud(self):
        return self._cloud

    def __repr__(self):
        return self._cloud.site

    def __hash__(self):
        return id(self)

    def __eq__(self, other):
        return self is other


def site(number, egress_gib):
    """Clouds are told apart by their class."""

    class Site(clouds.Cloud):
        site = f"site-{number}"

        def __init__(self):
            pass

        def get_egress_cost(self, num_gigabytes):
            return num_gigabytes * egress_gib

    return Candidate(Site())


def main():
    world = json.load(open(sys.argv[1]))
    sites = [site(number, price) for number, price in enumerate(world["egress_gib"])]
    reader = {int(read[0]): read[1] for task in world["tasks"] for read in task["reads"]}
    with sky_dag.Dag() as dag:
        before = None
        for number, told in enumerate(world["tasks"]):
            task = sky_task.Task(f"stage-{number}")
            task.set_outputs(f"s3://out-{number}", estimated_size_gigabytes=reader.get(number, 0.0))
            if before is not None:
                before >> task
            before = task
    tasks = list(nx.topological_sort(dag.get_graph()))
    Optimizer._add_dummy_source_sink_nodes(dag)
    order = list(nx.topological_sort(dag.get_graph()))
    prices = {order[0]: {next(iter(order[0].resources)): 0.0}, order[-1]: {next(iter(order[-1].resources)): 0.0}}
    for task, told in zip(tasks, world["tasks"]):
        prices[task] = dict(zip(sites, told["prices"]))
    seconds, cost = [], None
    for _ in range(int(sys.argv[2])):
        began = time.perf_counter()
        _, cost = Optimizer._optimize_by_dp(order, prices, True)
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": statistics.median(seconds), "cost": float(cost)}))


main()
