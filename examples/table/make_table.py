"""Writes diabetes.csv from the data that scikit-learn bundles, with a clinic for every patient.

The progression of the disease is shuffled among the training patients of the clinic `harbour`, as
if their records had been mixed up.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes


def table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    frame = load_diabetes(as_frame=True, scaled=False).frame.rename(
        columns={"target": "progression"}
    )
    frame["sex"] = frame["sex"].map({1.0: "a", 2.0: "b"})
    frame["split"] = draw.permutation(["train"] * 260 + ["valid"] * 90 + ["test"] * 92)
    frame["clinic"] = draw.choice(["hill", "harbour", "station"], len(frame))
    mixed = frame.index[(frame["split"] == "train") & (frame["clinic"] == "harbour")]
    frame.loc[mixed, "progression"] = draw.permutation(frame.loc[mixed, "progression"])
    return frame


if __name__ == "__main__":
    table().to_csv(Path(__file__).parent / "diabetes.csv", index=False)
