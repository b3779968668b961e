"""Proof of the log: seals, the keys that sign them, proof bundles, and the audit commands."""
