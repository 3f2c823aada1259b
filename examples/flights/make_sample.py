"""Make data/flights-200k.parquet out of data/flights-3m.parquet.

The sample is every flight of the half year between the busiest airports: whole routes are taken, in the order
in which the less busy of their two airports ranks, so that the past of a route and of an airport stays
meaningful. The last route is thinned evenly over time to end at 200,000 rows.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROWS = 200_000
DATA = Path(__file__).parent / "data"


def main() -> None:
    flights = pq.read_table(DATA / "flights-3m.parquet")
    origin = flights["origin"].to_numpy()
    destination = flights["destination"].to_numpy()
    airports, visits = np.unique(np.concatenate([origin, destination]), return_counts=True)
    rank = np.empty(len(airports), dtype=np.int64)
    rank[np.lexsort((airports, -visits))] = np.arange(len(airports))
    a = rank[np.searchsorted(airports, origin)]
    b = rank[np.searchsorted(airports, destination)]
    order = np.maximum(a, b) * 1_000_000 + a * 1_000 + b
    routes, counts = np.unique(order, return_counts=True)
    whole = int(np.searchsorted(np.cumsum(counts), ROWS, side="right"))
    keep = np.isin(order, routes[:whole])
    rest = np.flatnonzero(order == routes[whole])
    missing = ROWS - int(keep.sum())
    keep[rest[np.arange(missing) * len(rest) // max(missing, 1)]] = True
    sample = flights.filter(keep)
    assert sample.num_rows == ROWS
    pq.write_table(sample, DATA / "flights-200k.parquet", compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
