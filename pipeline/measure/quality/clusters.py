"""Look for the known clusters of texts in their vectors, by mini-batch k-means."""

import warnings

import numpy as np

from pipeline.text.labelled import Clustering
from pipeline.vectors import DoubleArray, FloatArray


def v_measures(task: Clustering, vectors: FloatArray) -> DoubleArray:
    """Return each experiment's V-measure, 0 to 1: clusters found against clusters known.

    As mteb judges clustering (https://github.com/embeddings-benchmark/mteb, read at 2.26), with
    its seed: reference and artifact start from the same texts.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import v_measure_score

    found = []
    for experiment in task.experiments:
        model = MiniBatchKMeans(
            n_clusters=experiment.clusters,
            batch_size=task.batch_size,
            n_init=1,
            random_state=task.seed,
        )
        with warnings.catch_warnings():  # vectors that are alike make fewer clusters, and a score
            warnings.simplefilter("ignore", ConvergenceWarning)
            clusters = model.fit_predict(vectors[list(experiment.texts)])
        found.append(v_measure_score(experiment.labels, clusters))
    return np.array(found, np.float64)
