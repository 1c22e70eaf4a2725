"""Claims: what a paper says its mechanism does, as two arms that differ in nothing else.

`verify` trains both arms from several seeds, measures them on test samples that neither saw, and judges the difference:
the 95 % interval of the paired difference, by bootstrap over seeds and test samples,

    lies above zero                   -> shown
    lies below the smallest effect    -> not shown
    else                              -> too noisy to say
"""

from anymask.claims.claim import Claim
from anymask.claims.cross import Cross
from anymask.claims.errors import ClaimError, OutOfTime
from anymask.claims.judging import NOISY, NOT_SHOWN, SHOWN, Verdict, judge
from anymask.claims.metrics import (
    FewLabels,
    FineTune,
    Folds,
    Forecast,
    Impute,
    Metric,
    Probe,
    Rebuild,
    Retrieve,
    TokenProbe,
)
from anymask.claims.verifying import Evidence, verify

__all__ = [
    "NOISY",
    "NOT_SHOWN",
    "SHOWN",
    "Claim",
    "ClaimError",
    "Cross",
    "Evidence",
    "FewLabels",
    "FineTune",
    "Folds",
    "Forecast",
    "Impute",
    "Metric",
    "OutOfTime",
    "Probe",
    "Rebuild",
    "Retrieve",
    "TokenProbe",
    "Verdict",
    "judge",
    "verify",
]
