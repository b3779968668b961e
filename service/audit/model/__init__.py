"""What audits decide without I/O: signed notes, seals, proof bundles, the chain of events, findings. Pure."""
