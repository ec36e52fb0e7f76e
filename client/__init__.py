"""Deprecated name of the package `tiller`, kept for one release."""

import warnings

from tiller import AsyncTiller, Tiller, TillerError

__all__ = ["AsyncTiller", "Tiller", "TillerError"]

warnings.warn("`client` is called `tiller` now: from tiller import Tiller", DeprecationWarning, stacklevel=2)
