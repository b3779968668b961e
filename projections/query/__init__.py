"""List queries: filters, label selectors, cursors and their SQL. Pure."""
