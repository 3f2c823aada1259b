"""One table as a Parquet file: python parquet.py <file> <bytes> <base|appended|deleted|column> <0 or 1: pages by content>.

The same arguments give the same bytes. A row is a time, an identity, three measurements and a word; a hundredth of the
rows is appended at the end, or deleted in eight runs of neighbours, or every row gets one more column.
"""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet

# What a row comes to in the file, measured.
ROW_BYTES = 31
RUNS = 8
GROUP_ROWS = 1 << 20
WORDS = np.array([a + b + c + d for a in "ABCDEFGH" for b in "LMNOP" for c in "STUVWXY" for d in "0123456789"])


def columns(rows, seed):
    random = np.random.Generator(np.random.PCG64(seed))
    return {
        "at": np.cumsum(random.integers(1, 2_000, rows)).astype("datetime64[ms]"),
        "identity": random.integers(0, 1 << 40, rows),
        "first": random.normal(20.0, 5.0, rows).round(3),
        "second": random.random(rows),
        "third": random.gamma(1.2, 20.0, rows).astype(np.float32),
        "word": WORDS[random.integers(0, len(WORDS), rows)],
    }


def main(path, size, change, by_content):
    rows = max(1_000, size // ROW_BYTES)
    table = columns(rows, 1)
    if change == "appended":
        more = columns(max(1, rows // 100), 2)
        more["at"] = more["at"] + (table["at"][-1] - np.datetime64(0, "ms"))
        table = {name: np.concatenate([values, more[name]]) for name, values in table.items()}
    elif change == "deleted":
        keep = np.ones(rows, dtype=bool)
        for number in range(RUNS):
            start = number * rows // RUNS + rows // RUNS // 2
            keep[start : start + max(1, rows // 100 // RUNS)] = False
        table = {name: values[keep] for name, values in table.items()}
    elif change == "column":
        table["score"] = np.random.Generator(np.random.PCG64(3)).random(rows).astype(np.float32)
    options = {"use_content_defined_chunking": True} if by_content else {}
    pyarrow.parquet.write_table(pa.table(table), path, compression="zstd", row_group_size=GROUP_ROWS, **options)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1")
