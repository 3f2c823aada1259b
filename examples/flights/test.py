"""Judge the model on the days that it has not seen."""

import json
import os

import joblib
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from features import load


def main() -> None:
    model = joblib.load(os.path.join(os.environ.get("TOMBOLO_INPUT_MODEL", "inputs/model"), "model.joblib"))["model"]
    x, y = load("test")
    late = model.predict_proba(x)[:, 1]
    metrics = {
        "rows": len(y),
        "late_share": round(float(y.mean()), 4),
        "auc": round(float(roc_auc_score(y, late)), 4),
        "average_precision": round(float(average_precision_score(y, late)), 4),
        "brier": round(float(brier_score_loss(y, late)), 4),
    }
    output = os.environ.get("TOMBOLO_OUTPUT_EVALUATION", "outputs/evaluation")
    with open(os.path.join(output, "metrics.json"), "w", encoding="utf-8") as file:
        json.dump(metrics, file, indent=2)
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
