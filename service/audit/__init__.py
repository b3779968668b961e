"""Proof: seals over the log's tree, the keys that sign them, and what a stranger can check with them."""
