"""HTTP: requests in, answers out. What they mean is said in `store` and `projections`."""
