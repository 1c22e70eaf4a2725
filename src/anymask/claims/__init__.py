"""Claims: what a paper says its mechanism does, as two arms that differ in nothing else.

`verify` trains both arms from several seeds, measures them on test samples that neither saw, and judges the difference:
the 95 % interval of the paired difference, by bootstrap over seeds and test samples,

    lies above zero                   -> shown
    lies below the smallest effect    -> not shown
    else                              -> too noisy to say
"""

from anymask.claims.claim import Claim
from anymask.claims.contrast import Contrast
from anymask.claims.cross import Cross
from anymask.claims.errors import ClaimError, OutOfTime
from anymask.claims.filling import FillIn
from anymask.claims.forecasts import Forecast, ForecastTracks
from anymask.claims.judging import NOISY, NOT_SHOWN, SHOWN, Verdict, judge
from anymask.claims.likelihoods import Bound
from anymask.claims.metrics import (
    FewLabels,
    FewLabelsPrecision,
    FineTune,
    Folds,
    Metric,
    Probe,
    Retrieve,
    TokenProbe,
)
from anymask.claims.rebuilding import Impute, Rebuild
from anymask.claims.regression import Regress
from anymask.claims.repeated import RepeatedFolds
from anymask.claims.verifying import Evidence, verify

__all__ = [
    "NOISY",
    "NOT_SHOWN",
    "SHOWN",
    "Bound",
    "Claim",
    "ClaimError",
    "Contrast",
    "Cross",
    "Evidence",
    "FewLabels",
    "FewLabelsPrecision",
    "FillIn",
    "FineTune",
    "Folds",
    "Forecast",
    "ForecastTracks",
    "Impute",
    "Metric",
    "OutOfTime",
    "Probe",
    "Rebuild",
    "Regress",
    "RepeatedFolds",
    "Retrieve",
    "TokenProbe",
    "Verdict",
    "judge",
    "verify",
]
