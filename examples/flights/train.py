"""Train on the earlier days; the last fifth of the days is held out for test.py."""

import os

import joblib
from sklearn.ensemble import HistGradientBoostingClassifier

from features import COLUMNS, load


def main() -> None:
    x, y = load("train")
    print(f"training on {len(y):,} flights, {y.mean():.1%} of them late", flush=True)
    model = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.1, random_state=7)
    model.fit(x, y)
    output = os.environ.get("TOMBOLO_OUTPUT_MODEL", "outputs/model")
    joblib.dump({"model": model, "columns": COLUMNS}, os.path.join(output, "model.joblib"))


if __name__ == "__main__":
    main()
