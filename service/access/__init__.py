"""Who asks, and what they may do: principals, tokens, and the file that keeps them."""
