"""Seals: signed checkpoints of the log's Merkle tree, published on a stream and kept in a file."""
