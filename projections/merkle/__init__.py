"""The Merkle tree over the log, as defined by RFC 6962 and RFC 9162. Pure."""
