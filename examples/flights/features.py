"""What train.py and test.py share: how the features are read."""

import os

import numpy as np
import pyarrow.parquet as pq

COLUMNS = [
    "hour",
    "weekday",
    "month",
    "distance",
    "route_late",
    "origin_late",
    "origin_late_yesterday",
    "destination_late",
    "destination_late_yesterday",
]


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The features (rows x COLUMNS, NaN where there is no past) and whether each flight was late."""
    path = os.environ.get("TOMBOLO_INPUT_FEATURES", "inputs/features")
    table = pq.read_table(path, columns=[*COLUMNS, "late"], filters=[("split", "=", split)])
    x = np.column_stack([table[c].to_numpy().astype(np.float32) for c in COLUMNS])
    return x, table["late"].to_numpy()
