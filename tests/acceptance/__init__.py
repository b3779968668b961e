"""Bacalhau's own tested behaviours, re-created against our HTTP API."""
