"""Authentication and authorization: principals, tokens and the token file."""
