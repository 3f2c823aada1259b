"""Tables of flights for the benchmarks: python tables.py <directory> <bytes> <0 or 1: whether rows are changed>.

The same arguments give the same bytes. One row in a hundred is changed, in runs of neighbours: eight runs a file.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

# What a row comes to, measured; the size is then met within a tenth.
CSV_ROW_BYTES = 40
PARQUET_ROW_BYTES = 5
FILE_BYTES = 64 << 20
RUNS = 8
AIRPORTS = np.array([a + b + c for a in "ABCDEFGH" for b in "LMNOP" for c in "STUVWXY"])


def table(seed, rows, changed):
    random = np.random.Generator(np.random.PCG64(seed))
    minutes = np.sort(random.integers(0, 525_600, rows))
    delay = random.gamma(1.2, 20.0, rows).astype(np.int16) - 10
    distance = random.integers(60, 5_000, rows).astype(np.int16)
    origin = AIRPORTS[random.integers(0, len(AIRPORTS), rows)]
    destination = AIRPORTS[random.integers(0, len(AIRPORTS), rows)]
    if changed:
        run = max(1, rows // 100 // RUNS)
        for number in range(RUNS):
            start = number * rows // RUNS + rows // RUNS // 2
            delay[start : start + run] += 7
    date = np.datetime64("2025-01-01T00:00", "s") + (minutes * 60).astype("timedelta64[s]")
    return pa.table({"date": date, "delay": delay, "distance": distance, "origin": origin, "destination": destination})


def main(directory, size, changed):
    for kind, row_bytes in (("csv", CSV_ROW_BYTES), ("parquet", PARQUET_ROW_BYTES)):
        rest, number = size // 2, 0
        while rest > 0:
            rows = max(1, min(rest, FILE_BYTES) // row_bytes)
            seed = number * 2 + (kind == "parquet")
            path = directory / kind / f"flights-{number:03}.{kind}"
            path.parent.mkdir(exist_ok=True)
            if kind == "csv":
                pyarrow.csv.write_csv(table(seed, rows, changed), path)
            else:
                pyarrow.parquet.write_table(table(seed, rows, changed), path, compression="zstd")
            rest -= FILE_BYTES
            number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
