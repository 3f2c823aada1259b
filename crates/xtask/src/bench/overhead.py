"""A training of fixed work: logistic regression by gradient descent, on data from a fixed seed, in one thread.

`overhead.py <steps>` trains and prints the loss; `overhead.py calibrate <seconds>` prints the steps that take so long.
"""

import sys
import time

import numpy as np

random = np.random.default_rng(7)
rows = random.standard_normal((40_000, 32))
labels = (rows @ random.standard_normal(32) + random.standard_normal(40_000) > 0).astype(float)


def train(steps):
    weights = np.zeros(32)
    for _ in range(steps):
        guess = 1 / (1 + np.exp(-(rows @ weights)))
        weights -= 0.1 * rows.T @ (guess - labels) / len(labels)
    guess = np.clip(1 / (1 + np.exp(-(rows @ weights))), 1e-9, 1 - 1e-9)
    return -np.mean(labels * np.log(guess) + (1 - labels) * np.log(1 - guess))


if sys.argv[1] == "calibrate":
    train(100)
    began = time.perf_counter()
    train(500)
    print(int(float(sys.argv[2]) * 500 / (time.perf_counter() - began)))
else:
    print("loss", train(int(sys.argv[1])), flush=True)
