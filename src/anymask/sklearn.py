"""scikit-learn estimators: `MaskedEncoder` and `MaskedImputer`."""

from anymask.interop.sklearn import MaskedEncoder, MaskedImputer

__all__ = ["MaskedEncoder", "MaskedImputer"]
