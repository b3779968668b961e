"""List queries: filters, selectors, cursors and the SQL that answers them. Pure."""
