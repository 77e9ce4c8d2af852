"""Means over samples with their standard errors."""

from __future__ import annotations

import numpy as np


def mean(samples: np.ndarray) -> list[float | None]:
    """Over axis 0, of the samples that were measured (the others are nan); None without such samples."""
    return [float(column.mean()) if len(column) else None for column in _measured_columns(samples)]


def standard_error(samples: np.ndarray) -> list[float | None]:
    """The standard error of that mean; None where fewer than two samples were measured."""
    return [float(column.std(ddof=1)) / len(column) ** 0.5 if len(column) > 1 else None for column in _measured_columns(samples)]


def ratio_of_sums(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float | None]:
    """A mean over the tokens of several documents, and its standard error over the documents.

    Given the sum and the number of tokens of each document. The error is None if all tokens belong to one document.
    """
    ratio = sums.sum() / counts.sum()
    residuals = (sums - ratio * counts) / counts.mean()
    return float(ratio), float(residuals.std(ddof=1) / len(residuals) ** 0.5) if (counts > 0).sum() > 1 else None


def _measured_columns(samples: np.ndarray) -> list[np.ndarray]:
    return [column[~np.isnan(column)] for column in samples.T]
