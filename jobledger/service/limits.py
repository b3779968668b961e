"""Every bound of the service, by name."""

# --- HTTP ---------------------------------------------------------------------------------------------------
BODY_MAX_BYTES = 2 * 1_048_576  # of a request; a spec with its envelope has less than half of it
HEADERS_MAX_BYTES = 16_384  # request line and all headers together
HEADERS_TIMEOUT_SECONDS = 10.0  # from the first byte of a request to the end of its headers
REQUEST_ID_MAX_CHARACTERS = 128

# --- reading ------------------------------------------------------------------------------------------------
OWN_WRITE_WAIT_SECONDS = 1.0  # how long a read waits for what this very process has acknowledged
WAIT_DEFAULT_SECONDS = 5.0  # of `wait_for`
HISTORY_DEFAULT_LIMIT = 100
HISTORY_MAX_LIMIT = 1_000
