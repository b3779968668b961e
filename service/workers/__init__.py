"""Several processes on one port: the owner projects, workers answer HTTP. See decision 0023."""
