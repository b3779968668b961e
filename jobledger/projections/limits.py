"""Every bound of the read side, by name."""

# --- SQLite -------------------------------------------------------------------------------------------------
BUSY_TIMEOUT_SECONDS = 10.0  # for a lock that another process holds
PAGE_CACHE_BYTES = 64 * 1_048_576  # per connection that writes
READER_PAGE_CACHE_BYTES = 16 * 1_048_576
READER_MEMORY_MAP_BYTES = 2_147_418_112  # the most that SQLite takes; these pages are the kernel's
WAL_CHECKPOINT_PAGES = 4_000  # some 16 MB of log before it is moved into the file
READERS_MAX = 4  # read connections of one view, each a thread
READER_PACK_STATEMENTS = 64  # short ones that wait on one connection before the next one is used

# --- projecting ---------------------------------------------------------------------------------------------
COMMIT_MAX_EVENTS = 5_000  # folded in one transaction
COMMIT_MAX_BYTES = 16 * 1_048_576  # of payloads in one transaction
FOLD_CACHE_JOBS = 65_536  # statuses remembered between transactions; the rest are read from the view
ROWS_PER_STATEMENT = 500  # in one INSERT; times the columns it stays under SQLite's 32,766 parameters
FOLD_CACHE_MESSAGE_CHARACTERS = 1_024  # of a state; a status with more, or with details, is not remembered
LOOKUP_CHUNK = 5_000  # ids asked for in one statement
ANOMALIES_KEPT = 10_000  # rows; the count goes on
RECONNECT_WAIT_SECONDS = 0.2  # after the log could not be reached; doubles up to the next line
RECONNECT_MAX_WAIT_SECONDS = 5.0

# --- asking -------------------------------------------------------------------------------------------------
LIST_DEFAULT_LIMIT = 50
LIST_MAX_LIMIT = 1_000
PAGE_MAX_BYTES = 8 * 1_048_576  # of specs on one page, but at least one; it ends early then
SHORT_ID_MIN_CHARACTERS = 3  # `j-` and at least one more
CANDIDATES_SHOWN = 5  # of an ambiguous short id
SELECTOR_MAX_CHARACTERS = 4_096
SELECTOR_MAX_REQUIREMENTS = 32
SELECTOR_MAX_VALUES = 256  # in one `in (…)`
CURSOR_MAX_CHARACTERS = 1_024
WAIT_DEFAULT_SECONDS = 5.0
WAIT_MAX_SECONDS = 60.0
WAIT_POLL_SECONDS = (
    0.005  # the first look of a process that does not project itself; doubles up to the next line
)
WAIT_POLL_MAX_SECONDS = 0.05
SHORT_WALK_ROWS = 128  # a scope of fewer jobs is walked, whatever the labels are
RARE_MAX_ROWS = (
    4_096  # found by a label and sorted for one page; what is more common is found by walking the order
)
DIGEST_CHUNK_ROWS = 2_000  # read and hashed at once
DIGEST_CHUNK_SPECS = 64  # the same for specs, which are fat
