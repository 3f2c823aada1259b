"""A training job whose state is large: python train.py <bytes> <seconds between two changes> <steps> <seconds a step>.

It fits a linear model to noisy data, one point a step, and keeps what it has learnt in $TOMBOLO_STATE: the weights, and a
hundred tables that stand for embeddings or an optimiser's moments, of which one is written anew each time. Asked to stop it
writes down where it is and exits with 75. What it makes depends on the seed alone, however often it is interrupted.
"""

import json
import os
import random
import signal
import sys
import time

TABLES, WEIGHTS, RATE = 100, 16, 0.01
state = os.environ["TOMBOLO_STATE"]


def save(name, write):
    path = os.path.join(state, name)
    with open(path + ".new", "wb") as file:
        write(file)
    os.rename(path + ".new", path)


def table(number, version, length):
    """A table's bytes, by its number and how often it was written."""
    save(f"table-{number:03}", lambda file: file.write(random.Random(number * 1_000_003 + version).randbytes(length)))


def main(size, every, steps, pause):
    length = size // TABLES
    at = {"step": 0, "tables": 0, "weights": [0.0] * WEIGHTS}
    path = os.path.join(state, "at.json")
    if os.path.exists(path):
        with open(path) as file:
            at = json.load(file)
    else:
        for number in range(TABLES):
            table(number, 0, length)
    keep = lambda: save("at.json", lambda file: file.write(json.dumps(at).encode()))
    keep()
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    print("ready", flush=True)
    truth = random.Random(7)
    truth = [truth.uniform(-1, 1) for _ in range(WEIGHTS)]
    changed = time.monotonic()
    while at["step"] < steps:
        point = random.Random(at["step"])
        x = [point.uniform(-1, 1) for _ in range(WEIGHTS)]
        y = sum(a * b for a, b in zip(truth, x)) + point.gauss(0, 0.1)
        error = sum(a * b for a, b in zip(at["weights"], x)) - y
        at["weights"] = [a - RATE * error * b for a, b in zip(at["weights"], x)]
        at["step"] += 1
        if time.monotonic() - changed >= every:
            changed = time.monotonic()
            at["tables"] += 1
            table(at["tables"] % TABLES, at["tables"], length)
            keep()
        if stopped:
            keep()
            sys.exit(75)
        time.sleep(pause)
    with open(os.path.join(os.environ["TOMBOLO_OUTPUT_MODEL"], "weights.json"), "w") as file:
        json.dump(at["weights"], file)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
