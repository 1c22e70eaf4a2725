"""Outlier scores of test samples from normal training samples, the higher the stranger, and how well scores rank.

All take features (N, D) of the training and (M, D) of the test part and return (M,).
"""

from __future__ import annotations

import numpy as np

from anymask.table import Figure

NEIGHBOURS = 5
TREES = 300
COMPONENTS = 0.9  # share of the variance that a principal component model keeps


def isolation_forest(train: np.ndarray, test: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Isolation forest (Liu, Ting & Zhou 2008) of 300 trees, scikit-learn's."""
    from sklearn.ensemble import IsolationForest

    return -IsolationForest(n_estimators=TREES, random_state=seed).fit(train).score_samples(test)


def pca_error(train: np.ndarray, test: np.ndarray, *, components: float = COMPONENTS) -> np.ndarray:
    """Squared distance from the principal components of the training part, in units of the features.

    Args:
        components: how many, or the share of the variance that they hold.
    """
    from sklearn.decomposition import PCA

    count = int(components) if components >= 1 else float(components)
    model = PCA(count, svd_solver="full").fit(train)
    return np.square(test - model.inverse_transform(model.transform(test))).sum(1)


def mahalanobis(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance from the mean of the training part, covariance shrunk as Ledoit & Wolf (2004), of
    standardised features."""
    from sklearn.covariance import LedoitWolf

    train, test = standardised(train, test)
    return LedoitWolf().fit(train).mahalanobis(test)


def neighbours(train: np.ndarray, test: np.ndarray, *, k: int = NEIGHBOURS) -> np.ndarray:
    """Mean Euclidean distance to the k nearest training samples, of standardised features."""
    from sklearn.neighbors import NearestNeighbors

    train, test = standardised(train, test)
    return NearestNeighbors(n_neighbors=min(k, len(train))).fit(train).kneighbors(test)[0].mean(1)


def one_class_svm(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Distance from the boundary of a one-class support vector machine (Schölkopf et al. 2001), Gaussian kernel with
    scikit-learn's scale, nu = 0.1, of standardised features."""
    from sklearn.svm import OneClassSVM

    train, test = standardised(train, test)
    return -OneClassSVM(nu=0.1).fit(train).decision_function(test)


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In units of the spread of the training part; features without spread become 0."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    mean, spread = train.mean(0), train.std(0)
    scale = np.where(spread > 1e-6 * np.abs(mean) + 1e-12, 1 / np.maximum(spread, 1e-12), 0.0)
    return (train - mean) * scale, (test - mean) * scale


def auroc(scores: np.ndarray, strange: np.ndarray) -> Figure:
    """Area under the ROC curve in per cent, with the 95 % interval of DeLong, DeLong & Clarke-Pearson (1988).

    Args:
        scores: (M,). strange: (M,) bool, both values in it.
    """
    from scipy.stats import rankdata

    a, b = scores[strange], scores[~strange]
    m, n = len(a), len(b)
    ranks = rankdata(np.concatenate([a, b]))
    beats = (ranks[:m] - rankdata(a)) / n  # share of normal samples below each strange one
    loses = 1 - (ranks[m:] - rankdata(b)) / m
    area = float(beats.mean())
    if min(m, n) < 2:
        return Figure(100 * area)
    half = 1.96 * float(np.sqrt(beats.var(ddof=1) / m + loses.var(ddof=1) / n))
    return Figure(100 * area, 100 * max(0.0, area - half), 100 * min(1.0, area + half))


def average_precision(scores: np.ndarray, strange: np.ndarray) -> Figure:
    """Average precision in per cent, scikit-learn's."""
    from sklearn.metrics import average_precision_score

    return Figure(100 * float(average_precision_score(strange, scores)))
