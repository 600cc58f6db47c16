"""Small data sets of simulated captures for tests: how they are written, and what identifies their bytes."""

import hashlib

from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.dataset import write_dataset
from edge_dp.simulation.scenes import SceneConfig

CONFIG = SimulationConfig(SceneConfig(height=24, width=40, margin=16, channels=3))
SEED = 7
COUNT, SHARD = 10, 4  # two whole shards and half a one


def write(folder, **changes):
    arguments = {"count": COUNT, "seed": SEED, "config": CONFIG, "rig": True, "workers": 1, "shard_size": SHARD}
    return write_dataset(folder, **(arguments | changes))


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
