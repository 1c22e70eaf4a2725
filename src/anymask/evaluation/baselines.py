"""Classical baselines on raw input, from scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from anymask.data import Schema
from anymask.evaluation.errors import EvaluateError

MOST = 10_000  # training samples; of more, a random part is taken
TUNED = 2_000  # of a larger training part, settings are chosen on so many
COMPONENTS = 128  # principal components that the support vector machine works on
FOLDS = 5


def classifier_for(schema: Schema) -> tuple[str, Any, dict[str, list[Any]]]:
    """(name, scikit-learn estimator, grid of its settings): for images a support vector machine with a Gaussian kernel
    on principal components of the standardised pixels, else gradient boosting."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if any(field.kind == "image" for field in schema.fields.values()):
        machine = make_pipeline(StandardScaler(), PCA(COMPONENTS), SVC(kernel="rbf", gamma="scale"))
        return "SVM on raw pixels", machine, {"svc__C": [0.1, 1.0, 10.0, 100.0]}
    return "gradient boosting on raw input", HistGradientBoostingClassifier(), {"learning_rate": [0.03, 0.1]}


def classify(
    schema: Schema, x: np.ndarray, y: np.ndarray, test_x: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
    """(labels predicted for the test part (M,), settings chosen by cross-validation on the training part).

    Args:
        x: (N, D) raw input. y: (N,) labels. test_x: (M, D).

    Raises:
        EvaluateError: one class only.
    """
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    if len(np.unique(y)) < 2:
        raise EvaluateError(f"all training labels are {y[0]}; a classifier needs at least two classes")
    rng = np.random.default_rng(seed)
    if len(y) > MOST:
        part = np.sort(rng.permutation(len(y))[:MOST])
        x, y = x[part], y[part]
    _, estimator, grid = classifier_for(schema)
    few = np.sort(rng.permutation(len(y))[:TUNED])
    least = int(np.unique(y[few], return_counts=True)[1].min())
    folds = min(FOLDS, least)
    smallest = len(few) if folds < 2 else len(few) - -(-len(few) // folds)
    for name, value in {"random_state": seed, "pca__n_components": min(COMPONENTS, x.shape[1], smallest)}.items():
        if name in estimator.get_params():
            estimator.set_params(**{name: value})
    if folds < 2:
        estimator.fit(x, y)
        return estimator.predict(test_x), {}
    search = GridSearchCV(estimator, grid, cv=StratifiedKFold(folds, shuffle=True, random_state=seed), refit=False)
    chosen = search.fit(x[few], y[few]).best_params_
    estimator.set_params(**chosen).fit(x, y)
    return estimator.predict(test_x), chosen
