"""The HTTP API: operations, and the middleware and router around them."""
