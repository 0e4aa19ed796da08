"""Learned structured linear maps for torch: products of butterfly matrices (K-matrices)."""

from kserve.kmatrix.factors import butterfly_multiply, materialize
from kserve.kmatrix.layers import KLinear, linear, materialized

__all__ = ["KLinear", "butterfly_multiply", "linear", "materialize", "materialized"]
