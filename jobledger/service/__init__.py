"""The doors: the command line, HTTP, and what opens them. Each asks the store and the projections."""
