"""Names of runs."""

import re
from datetime import datetime


def run_name(values: dict, now: datetime) -> str:
    """Return MODEL-DATA-TIME, e.g. "MoeModel-video-20260301-020000"; of predict, predict-DATA-TIME.

    Args:
        values: Values of all parameters of the run. DATA is the last folder of `train_data`, or of
            `data`, whose name has no wildcard and no date.
        now: Time at which the run is submitted.
    """
    data = values["train_data"] if "train_data" in values else values["data"]
    pattern = re.sub(r"\{.*?\}", "*", data.split(",")[0])
    folders = re.split(r"/+", pattern)[:-1]
    plain = [folder for folder in folders if folder and not re.search(r"[*?\[:]", folder)]
    parts = [values.get("model", "predict"), *plain[-1:], f"{now:%Y%m%d-%H%M%S}"]
    return "-".join(parts)
