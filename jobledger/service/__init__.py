"""The doors: so far the command line. Each asks the store and the projections."""
