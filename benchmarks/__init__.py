"""Benchmarks: every figure is measured together with its baseline, in the same run."""
