"""Masked pre-training as scikit-learn transformers: features of rows, and missing cells filled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from anymask.data import Source, open_source
from anymask.engine import Model
from anymask.evaluation.features import Pool, embed_source, encoder
from anymask.evaluation.imputing import check_imputes, impute, impute_cells
from anymask.interop import mixed
from anymask.interop.plain import InteropError
from anymask.recipe import Recipe, Size, find
from anymask.train import pretrain_model


class MaskedEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of an encoder that is pre-trained by masking on the rows it is fitted to. Labels are not used.

    The features are those of `anymask.embed` after `anymask.pretrain` with the same options and seed; nothing is
    written to disk. Output is float32, (n_samples, width of the encoder).

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from anymask.sklearn import MaskedEncoder
    >>> X, y = load_digits(return_X_y=True)
    >>> encoder = MaskedEncoder(sample_shape=(8, 8), epochs=1, random_state=0)
    >>> model = make_pipeline(encoder, LogisticRegression()).fit(X, y)
    >>> encoder.transform(X[:2]).shape
    (2, 96)

    Args:
        recipe: slug, file or Recipe; None = the default of the kind of data: remasker for rows of a table, mae for
            images.
        sample_shape: None = a row of X is a row of a table, NaN a missing cell; X may then hold text, categories and
            dates as well (a DataFrame, or an array of objects), see `anymask.data.open_source`. (H, W) or (C, H, W) =
            a row of X is an image, flattened in this order; uint8 stays as it is, other numbers become float32.
        mask_ratio: share that is hidden, the recipe's argument `mask.ratio`; None = the recipe's own.
        changes: what else is different from the recipe: {"optimiser.lr": 1e-3}.
        size: name or Size of the model; None = "nano" for images up to 16 pixels, "tiny" for larger ones, "micro" for
            tables.
        epochs: passes over the data; None = about 400,000 images or 1,000,000 rows in all.
        batch_size: "auto" = 128, or 64 below 2,000 rows.
        pool: "mean" over the tokens, "cls" where the encoder has it, "tokens" (those of a row one after another), or a
            function of a Latent.
        random_state: an int is the run's seed; None = a new seed in each fit.
        verbose: True = progress on stderr.

    Attributes:
        model_: the trained `anymask.engine.Model`. recipe_: its Recipe, changes included.
        n_features_in_, feature_names_in_: as scikit-learn has them.

    Raises:
        ValueError: data that scikit-learn's own transformers refuse, a table of one column, or one row to fit to.
        RecipeError, DataError, TrainError: also ValueErrors; before training begins.
    """

    def __init__(
        self,
        recipe: str | Recipe | None = None,
        *,
        sample_shape: tuple[int, ...] | None = None,
        mask_ratio: float | None = None,
        changes: Mapping[str, Any] | None = None,
        size: str | Size | None = None,
        epochs: float | None = None,
        batch_size: int | str = "auto",
        pool: str | Pool = "mean",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.sample_shape = sample_shape
        self.mask_ratio = mask_ratio
        self.changes = changes
        self.size = size
        self.epochs = epochs
        self.batch_size = batch_size
        self.pool = pool
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: object = None) -> MaskedEncoder:
        """Trains on the rows of X (n_samples, n_features); y is not used."""
        source = self._opened(X, fit=True)
        self.model_, self.recipe_ = _pretrained(self, source, self.recipe)
        self._n_features_out = self._embedded(source.subset([0])).shape[1]
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """(n_samples, features) float32 of the rows of X."""
        check_is_fitted(self)
        return self._embedded(self._opened(X, fit=False))

    def _opened(self, X: Any, *, fit: bool) -> Source:
        if self.sample_shape is None and mixed.is_mixed(X):
            _checked_mixed(self, X, fit=fit)
            return mixed.source_of(X)
        return self._source(self._validated(X, fit=fit))

    def _validated(self, X: ArrayLike, *, fit: bool) -> np.ndarray:
        if self.sample_shape is None:
            return validate_data(self, X, reset=fit, dtype=np.float64, ensure_all_finite="allow-nan", **_LEAST[fit])
        rows = validate_data(self, X, reset=fit, ensure_min_samples=_LEAST[fit]["ensure_min_samples"])
        if fit:
            self._byte_images = rows.dtype == np.uint8
        if rows.dtype != np.uint8 and self._byte_images:
            raise InteropError(f"X is {rows.dtype}, and fit had uint8 images; give them as uint8, 0 to 255")
        return rows if self._byte_images else rows.astype(np.float32)

    def _source(self, rows: np.ndarray) -> Source:
        if self.sample_shape is None:
            return open_source(rows)
        shape = tuple(self.sample_shape)
        if len(shape) not in (2, 3) or any(n < 1 for n in shape):
            raise InteropError(f"sample_shape is None, (height, width) or (channels, height, width), not {shape}")
        if math.prod(shape) != rows.shape[1]:
            raise InteropError(
                f"sample_shape {shape} needs rows of {math.prod(shape)} values, and X has {rows.shape[1]} features"
            )
        return open_source(rows.reshape(len(rows), *(1,) * (3 - len(shape)), *shape), layout="NCHW")

    def _embedded(self, source: Source) -> np.ndarray:
        with _home_again(self.model_):
            features = embed_source(encoder(self.model_, pool=self.pool), source)
        return features.reshape(len(features), -1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.sample_shape is None
        tags.transformer_tags.preserves_dtype = []  # float32 whatever comes
        return tags


class MaskedImputer(TransformerMixin, BaseEstimator):
    """Fills missing cells (NaN) of tables with the predictions of a model that is pre-trained by masking on the rows it
    is fitted to. Cells that are there stay as they are, bit for bit, so the output has X's precision: float32 for
    float32, else float64. Rows without missing cells pass through.

    Where X holds text, categories or dates (a DataFrame, or an array of objects), so does the output, an array of
    objects: categories and dates are filled in as well. Columns that are not learnt from, as numbers of rows, keep
    their gaps.

    >>> import numpy as np
    >>> from anymask.sklearn import MaskedImputer
    >>> X = np.array([[1.0, 2.0], [2.0, np.nan], [3.0, 6.0], [np.nan, 8.0]])
    >>> filled = MaskedImputer(epochs=5, random_state=0).fit_transform(X)
    >>> filled[0].tolist(), bool(np.isnan(filled).any())
    ([1.0, 2.0], False)

    Args:
        recipe: slug, file or Recipe that predicts cells of tables; None = remasker.
        mask_ratio, changes, size, epochs, batch_size, random_state, verbose: as in `MaskedEncoder`.
        keep_empty_features: columns without a cell in fit are left out of the output, as by scikit-learn's
            SimpleImputer; True = they are kept, and their missing cells filled with 0.

    Attributes:
        model_, recipe_, n_features_in_, feature_names_in_: as in `MaskedEncoder`.

    Raises:
        ValueError: as `MaskedEncoder`. EvaluateError: a recipe that does not predict cells of tables.
    """

    def __init__(
        self,
        recipe: str | Recipe | None = None,
        *,
        mask_ratio: float | None = None,
        changes: Mapping[str, Any] | None = None,
        size: str | Size | None = None,
        epochs: float | None = None,
        batch_size: int | str = "auto",
        keep_empty_features: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.mask_ratio = mask_ratio
        self.changes = changes
        self.size = size
        self.epochs = epochs
        self.batch_size = batch_size
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: object = None) -> MaskedImputer:
        """Trains on the rows of X (n_samples, n_features); y is not used."""
        recipe = find(self.recipe or "remasker")
        self._values: mixed.Values | None = None
        if mixed.is_mixed(X):
            return self._fit_mixed(X, recipe)
        rows = self._validated(X, fit=True)
        check_imputes(getattr(recipe.tokenizer, "part", None), getattr(recipe.target, "part", None))
        self._empty = np.isnan(rows).all(0)
        self.model_, self.recipe_ = _pretrained(self, open_source(rows.astype(np.float64)), recipe)
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """The rows of X with their missing cells filled; columns as `keep_empty_features` says."""
        check_is_fitted(self)
        if self._values is not None:
            return self._transform_mixed(X)
        filled = self._validated(X, fit=False)
        lacking = np.flatnonzero(np.isnan(filled[:, ~self._empty]).any(1))
        if len(lacking):
            with _home_again(self.model_):
                filled[lacking] = impute(self.model_, open_source(filled[lacking].astype(np.float64)))
        if not self.keep_empty_features:
            return filled[:, ~self._empty]
        filled[np.isnan(filled)] = 0.0
        return filled

    def _fit_mixed(self, X: Any, recipe: Recipe) -> MaskedImputer:
        rows = _checked_mixed(self, X, fit=True)
        check_imputes(getattr(recipe.tokenizer, "part", None), getattr(recipe.target, "part", None))
        source = mixed.source_of(X)
        self._empty, self._values = mixed.empty_columns(rows), mixed.Values(rows, mixed.names_of(X), source)
        self.model_, self.recipe_ = _pretrained(self, source, recipe)
        return self

    def _transform_mixed(self, X: Any) -> np.ndarray:
        rows, source = _checked_mixed(self, X, fit=False), mixed.source_of(X)
        with _home_again(self.model_):
            cells, levels = impute_cells(self.model_, source)
        filled = self._values.fill(rows, mixed.names_of(X), source, cells, levels)  # type: ignore[union-attr]
        if not self.keep_empty_features:
            return filled[:, ~self._empty]
        filled[:, self._empty] = 0.0
        return filled

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> np.ndarray:
        """Names of the columns of the output."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        return names if self.keep_empty_features else names[~self._empty]

    def _validated(self, X: ArrayLike, *, fit: bool) -> np.ndarray:
        return validate_data(
            self, X, reset=fit, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan", copy=True, **_LEAST[fit]
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


# A cell is predicted from others of its row, and a model is not trained on one row; one row can be transformed.
_LEAST = {True: dict(ensure_min_samples=2, ensure_min_features=2), False: dict(ensure_min_samples=1)}


def _checked_mixed(estimator: MaskedEncoder | MaskedImputer, X: Any, *, fit: bool) -> np.ndarray:
    """(N, F) objects, their number and names of columns checked against those of the fit."""
    rows = validate_data(estimator, X, reset=fit, dtype=None, ensure_all_finite="allow-nan", **_LEAST[fit])
    return np.array(rows, dtype=object)


def _pretrained(
    estimator: MaskedEncoder | MaskedImputer, source: Source, recipe: str | Recipe | None
) -> tuple[Model, Recipe]:
    """Model and resolved recipe of an estimator's options."""
    changes = dict(estimator.changes or {})
    if estimator.mask_ratio is not None:
        if "mask.ratio" in changes:
            raise InteropError("give mask_ratio or changes={'mask.ratio': ...}, not both")
        changes["mask.ratio"] = estimator.mask_ratio
    model, made = pretrain_model(
        source,
        recipe=recipe,
        changes=changes,
        size=estimator.size,
        epochs=estimator.epochs,
        batch_size=estimator.batch_size,
        seed=_seed(estimator.random_state),
        progress=bool(estimator.verbose),
    )
    return model, made.recipe


def _seed(random_state: int | np.random.RandomState | None) -> int:
    """An int itself, so that the same seed gives the same model as in `anymask.pretrain`."""
    generator = check_random_state(random_state)  # raises for what is none
    return int(random_state) if isinstance(random_state, (int, np.integer)) else int(generator.randint(2**31 - 1))


@contextmanager
def _home_again(model: Model) -> Iterator[None]:
    """The model goes to a GPU for the work, and comes back: an estimator must unpickle where there is none."""
    try:
        yield
    finally:
        model.cpu()
