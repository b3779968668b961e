"""The Merkle tree over the log, as RFC 6962 and RFC 9162 define it: pure, and nothing of the view in it."""
