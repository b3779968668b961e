"""Job specifications: reading, normalization, validation and quantities. Pure."""
