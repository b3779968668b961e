"""The doors: HTTP, live feeds and the command line. Each asks the store and the projections."""
