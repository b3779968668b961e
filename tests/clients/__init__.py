"""The real clients of Bacalhau, and other people's tools, against a real service process."""
