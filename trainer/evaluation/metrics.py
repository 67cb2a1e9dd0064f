"""GAP, Hit@1, PERR and mAP, as google/youtube-8m defines them (eval_util.py). NumPy only.

Two corners that the original leaves to chance, decided here:

- Videos without labels count: 0 in Hit@1 and in PERR, and their best classes are false positives
  in GAP and mAP (as in the original). `num_videos_without_labels` says how many there were.
- Ties: within a video the class with the lower id goes first. Between videos, pairs of equal score
  have no order of their own, so average precision is its mean over all their orders (the original
  shuffles them once). So neither the order of the videos nor the batch size changes a metric.
"""

import numpy as np

TOP_K = 20  # the original's: classes a video that GAP and mAP look at


class VideoMetrics:
    """Sums over videos: empty, `add` batches, `merge` other sums, read the results.

    What is kept grows by 9 bytes for each of a video's `top_k` best classes, whatever the number
    of classes: GAP needs every pair's score to the end, to be exact.
    """

    def __init__(self, num_classes: int, top_k: int = TOP_K):
        self.num_classes = num_classes
        self.top_k = min(top_k, num_classes)
        self.num_videos = 0
        self.num_videos_without_labels = 0
        self.num_hits_at_1 = 0
        # Whole numbers, so that sums do not depend on their order: at n, the labels that were
        # among the n best classes of videos with n labels.
        self.hits_of_num_labels = np.zeros(num_classes + 1, np.int64)
        self.num_positives = np.zeros(num_classes, np.int64)
        self._scores: list[np.ndarray] = []
        self._classes: list[np.ndarray] = []
        self._hits: list[np.ndarray] = []

    def add(self, top_scores: np.ndarray, top_classes: np.ndarray, labels: np.ndarray):
        """Adds a batch.

        Args:
            top_scores: [batch, k] float32, a video's best scores in descending order; k is at
                least `top_k`, and at least the most labels of a video or all classes.
            top_classes: [batch, k] int, their class ids; of equal scores the lower id first.
            labels: [batch, n] int, a video's distinct true classes, then -1.

        Raises:
            ValueError: k is too small.
        """
        num_labels = (labels >= 0).sum(axis=1)
        needed = min(max(self.top_k, num_labels.max(initial=0)), self.num_classes)
        if top_scores.shape != top_classes.shape or top_scores.shape[1] < needed:
            raise ValueError(
                f"top_scores and top_classes must be [batch, {needed}] or wider; got "
                f"{top_scores.shape} and {top_classes.shape}."
            )
        hits = (top_classes[:, :, None] == labels[:, None, :]).any(axis=2)
        rank = np.arange(hits.shape[1])
        # The original counts a label that scored exactly 0 as missed, in PERR alone.
        among_best = hits & (rank < num_labels[:, None]) & (top_scores > 0)

        self.num_videos += len(labels)
        self.num_videos_without_labels += int((num_labels == 0).sum())
        self.num_hits_at_1 += int(hits[:, 0].sum())
        np.add.at(self.hits_of_num_labels, num_labels, among_best.sum(axis=1))
        self.num_positives += np.bincount(labels[labels >= 0], minlength=self.num_classes)
        self._scores.append(top_scores[:, : self.top_k].astype(np.float32).ravel())
        self._classes.append(top_classes[:, : self.top_k].astype(np.int32).ravel())
        self._hits.append(hits[:, : self.top_k].ravel())

    def merge(self, other: "VideoMetrics"):
        """Adds the videos of `other`, whose num_classes and top_k must be the same."""
        assert (self.num_classes, self.top_k) == (other.num_classes, other.top_k)
        self.num_videos += other.num_videos
        self.num_videos_without_labels += other.num_videos_without_labels
        self.num_hits_at_1 += other.num_hits_at_1
        self.hits_of_num_labels += other.hits_of_num_labels
        self.num_positives += other.num_positives
        self._scores += other._scores
        self._classes += other._classes
        self._hits += other._hits

    def hit_at_1(self) -> float:
        """Share of videos whose best-scored class is one of their labels."""
        return self.num_hits_at_1 / max(self.num_videos, 1)

    def perr(self) -> float:
        """Precision at equal recall rate: of a video with n labels, the share of its n best-scored
        classes that are labels; averaged over the videos."""
        num_labels = np.maximum(np.arange(self.num_classes + 1), 1)
        return float((self.hits_of_num_labels / num_labels).sum()) / max(self.num_videos, 1)

    def gap(self) -> float:
        """Global average precision: the average precision of all videos' `top_k` best classes in
        one list, over all labels, those outside the best classes too."""
        scores, classes, hits = self._pairs()
        one_list = np.zeros_like(classes)
        positives = self.num_positives.sum(keepdims=True)
        return float(average_precision(scores, hits, one_list, positives)[0])

    def average_precision(self) -> np.ndarray:
        """[num_classes] float64: each class' average precision; NaN where no video has it."""
        scores, classes, hits = self._pairs()
        result = average_precision(scores, hits, classes, self.num_positives)
        return np.where(self.num_positives > 0, result, np.nan)

    def map(self) -> float:
        """Mean average precision over the classes that at least one video has."""
        seen = self.num_positives > 0
        return float(self.average_precision()[seen].mean()) if seen.any() else 0.0

    def results(self) -> dict[str, float]:
        """All of them, by name."""
        return {
            "gap": self.gap(),
            "hit_at_1": self.hit_at_1(),
            "perr": self.perr(),
            "map": self.map(),
            "num_videos": self.num_videos,
            "num_videos_without_labels": self.num_videos_without_labels,
            "num_classes_with_videos": int((self.num_positives > 0).sum()),
        }

    def _pairs(self):
        # Joined in place, so that asking for several results joins them once.
        for kept, empty in (
            (self._scores, np.float32),
            (self._classes, np.int32),
            (self._hits, bool),
        ):
            kept[:] = [np.concatenate(kept)] if kept else [np.zeros(0, empty)]
        return self._scores[0], self._classes[0], self._hits[0]


def average_precision(
    scores: np.ndarray, hits: np.ndarray, lists: np.ndarray, num_positives: np.ndarray
) -> np.ndarray:
    """The average precision of several ranked lists at once.

    A list's average precision is the sum over its true pairs of the precision at their rank,
    divided by the list's number of positives. Where n pairs of one score, r of them true, follow
    N pairs with R true ones, the mean over their orders is the sum over i = 1..n of
    r/n * (R + 1 + (i - 1)(r - 1)/(n - 1)) / (N + i).

    Args:
        scores: [pairs] float.
        hits: [pairs] bool, which pairs are true.
        lists: [pairs] int, each pair's list.
        num_positives: [lists] int, those that no pair stands for too.

    Returns:
        [lists] float64; 0 where there are no positives.
    """
    result = np.zeros(len(num_positives))
    if len(scores) == 0:
        return result
    order = np.lexsort((-scores, lists))
    scores, hits, lists = scores[order], hits[order].astype(np.int64), lists[order]
    new_list = np.r_[True, lists[1:] != lists[:-1]]
    new_tie = new_list | np.r_[True, scores[1:] != scores[:-1]]
    list_start = np.flatnonzero(new_list)[np.cumsum(new_list) - 1]
    rank = np.arange(len(scores)) - list_start + 1

    starts = np.flatnonzero(new_tie)
    n = np.diff(np.r_[starts, len(scores)])
    r = np.add.reduceat(hits, starts)
    before = rank[starts] - 1
    true_so_far = np.r_[0, np.cumsum(hits)]
    true_before = true_so_far[starts] - true_so_far[list_start[starts]]

    inverse_ranks = np.add.reduceat(1 / rank, starts)  # sum of 1 / (N + i)
    later = n - (before + 1) * inverse_ranks  # sum of (i - 1) / (N + i)
    share = (r - 1) / np.maximum(n - 1, 1)
    terms = r / n * ((true_before + 1) * inverse_ranks + share * later)
    np.add.at(result, lists[starts], terms)
    return result / np.maximum(num_positives, 1)
