"""What Jobledger promises to be, measured: every figure beside its baseline, in the same run."""
