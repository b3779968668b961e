"""Every bound of the read side, by name."""

# --- SQLite -------------------------------------------------------------------------------------------------
BUSY_TIMEOUT_SECONDS = 10.0  # for a lock that another process holds
PAGE_CACHE_BYTES = 64 * 1_048_576  # per connection that writes
READER_PAGE_CACHE_BYTES = 16 * 1_048_576
WAL_CHECKPOINT_PAGES = 4_000  # some 16 MB of log before it is moved into the file
WAL_KEPT_BYTES = 4_000 * 4_096  # a longer one, left by a long read, is cut when the projector is idle
READERS_MAX = 4  # read connections of one view, each a thread
READER_PACK_STATEMENTS = 64  # short ones that wait on one connection before the next one is used

# --- damage of the view -------------------------------------------------------------------------------------
VIEW_LOOK_SECONDS = 1.0  # between two looks at whether the file is still there, whole, and the same one
VIEW_DAMAGED_KEPT = 2  # files that were moved aside; older ones are deleted
VIEW_REBUILDS_MAX = 5  # within the next line; one more stops the projector
VIEW_REBUILDS_SECONDS = 600.0
VIEW_IO_ERRORS_MAX = 5  # in a row, before a file that gives I/O errors counts as damaged
VIEW_CHECK_ROWS = 32  # jobs that one background check folds again from the log
VIEW_CHECK_EVENTS = 1_000  # of one job; one with more is passed over

# --- projecting ---------------------------------------------------------------------------------------------
COMMIT_MAX_EVENTS = 5_000  # folded in one transaction
COMMIT_MAX_BYTES = 16 * 1_048_576  # of payloads in one transaction
FOLD_CACHE_JOBS = 65_536  # statuses remembered between transactions; the rest are read from the view
ROWS_PER_STATEMENT = 500  # in one INSERT; times the columns it stays under SQLite's 32,766 parameters
FOLD_CACHE_MESSAGE_CHARACTERS = 1_024  # of a state; a status with more, or with details, is not remembered
FOLD_CACHE_TAGS = 8  # of a job; a status with more is not remembered
LOOKUP_CHUNK = 5_000  # ids asked for in one statement
ANOMALIES_KEPT = 10_000  # rows; the count goes on
RECONNECT_WAIT_SECONDS = 0.2  # after the log could not be reached; doubles up to the next line
RECONNECT_MAX_WAIT_SECONDS = 5.0

# --- asking -------------------------------------------------------------------------------------------------
LIST_DEFAULT_LIMIT = 50
LIST_MAX_LIMIT = 1_000
PAGE_MAX_BYTES = 8 * 1_048_576  # of specs and states on one page, but at least one job; it ends early then
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
WALK_MAX_ARMS = 64  # namespaces times states that are walked side by side; SQLite takes 500 in one statement
RARE_MAX_ROWS = (
    4_096  # found by a label and sorted for one page; what is more common is found by walking the order
)
DIGEST_CHUNK_ROWS = 2_000  # read and hashed at once
DIGEST_CHUNK_SPECS = 64  # the same for specs, which are fat

# --- folding what a reader reads ----------------------------------------------------------------------------
FOLDER_MAX_JOBS = 65_536  # remembered by one reader; what became of others is read from the log
FOLDER_MAX_BYTES = 128 * 1_048_576
FOLDER_MAX_NUMBERS = 500_000  # jobs of which a replay remembers name and numbers; some 230 bytes each
FOLDER_MAX_NAMESPACES = 10_000  # known by number for that; jobs of others count as four
FOLDER_READS = 32  # jobs that one reader reads from the log at once
FOLDER_SCAN_FACTOR = 50  # records read in a row at the price of one job: measured, 30 to 100
FOLDER_FORGOTTEN_BITS = 64 * 1_048_576  # of the filter that knows which jobs were forgotten: 8 MB, if any was

# --- as of an earlier point ---------------------------------------------------------------------------------
ASOF_FOLD_EVENTS = 2_500  # folded at once into a copy; the event loop is not held longer than that takes
ASOF_BATCH_JOBS = 50_000  # changed jobs that are held before they are written to a copy
ASOF_BATCH_BYTES = 32 * 1_048_576  # of the events that changed them
ASOF_MAX_COPIES = 8  # kept; the settings say otherwise
ASOF_MAX_BYTES = 4 * 1_073_741_824
ASOF_READERS = 2  # connections to one copy, each a thread
ASOF_BUILDS_MAX = 4  # points that are being made ready for one client, one after the other; then AsOfBusy
ASOF_BUILDS_MAX_TOTAL = 64  # for all clients together
ASOF_BUILDS_AT_ONCE = 2  # builds that run, each in a thread and for another client
ASOF_WAIT_SECONDS = 30.0  # for one of them; then the asker is told AsOfBusy, and it goes on
ASOF_RETRY_SECONDS = 5  # after which such an asker is to come back
ASOF_NEAR_EVENTS = 20_000  # a copy is left so far before a point that was asked for
ASOF_NEAR_MAX_EVENTS = 40_000  # behind a copy are folded on top of it; farther, the live view is tried first
ASOF_EVENTS_PER_JOB_READ = 16  # of the log are folded in the time that reading one job takes
ASOF_READS = 32  # jobs read from the log at once
ASOF_READS_MAX_JOBS = 50_000  # one by one for one copy
CHANGES_JOB_EVENTS = 50  # told of one job that changed between two points; the rest are counted
CHANGES_PAGE_JOBS = 512  # looked at for one page
CHANGES_READS = 8  # jobs read from the log at once: the server works on one request after the other
CHANGES_PAGE_EVENTS = 50_000  # read for one page, or those of CHANGES_READS jobs; then it ends early
CHANGES_PAGE_BYTES = 4 * 1_048_576  # of specs, states and events on one page, but at least one job
CHANGES_JOB_BYTES = 1_048_576  # of one job's events that are shown, but at least one; the rest are counted
ASOF_LATE_INDEX_EVENTS = 50_000  # from so many on, the lists' indexes are made after the fold

# --- quarantine and damage ----------------------------------------------------------------------------------
HEAL_PAGE_JOBS = 100  # looked for at once; each is folded and written by itself
CLOCK_LOG_LINES = 100  # of steps back of the stream's time that one projector meets; the rest are counted
QUARANTINE_LOG_LINES = 100  # of jobs that one reader finds quarantined; the rest are counted

# --- the Merkle tree ----------------------------------------------------------------------------------------
PROOFS_AT_ONCE = 32  # inclusion proofs made from one read: some hundred tiles, and 5 ms of hashing at most

# --- subscriptions ------------------------------------------------------------------------------------------
SUBSCRIPTION_NAME_MAX_CHARACTERS = 64
SUBSCRIPTION_PARTITIONS = 32  # of an elastic one: one per shard, which the server filters quickest
SUBSCRIPTION_MEMBERS_MAX = 32  # members or partitions: there are so many shards
SUBSCRIPTION_BUFFER_EVENTS = 4_000  # that wait for the handler, over all partitions
SUBSCRIPTION_BUFFER_BYTES = 8 * 1_048_576  # the same; one large event more per partition may be there
SUBSCRIPTION_CHUNK_EVENTS = 250  # folded at once: so many events are ready to be handled at most …
SUBSCRIPTION_CHUNK_BYTES = 1_048_576  # … and about as much
SUBSCRIPTION_TURN_SECONDS = 0.02  # the handler's, before others in this process have theirs
ACKNOWLEDGE_EVENTS = 500  # handled, before the server is told, while others are ready …
ACKNOWLEDGE_SECONDS = 0.1  # … or so long
LET_GO_PARTITIONS = 4  # of an elastic one, at one look
RETRIES_DEFAULT = 5  # of an event that failed, before its job is parked
RETRIES_MAX = 100
RETRY_FIRST_SECONDS = 1.0  # before the first retry; doubles up to the next line
RETRY_LAST_SECONDS = 300.0
RECORDS_LOOK_SECONDS = 1.0  # between two looks at what operators and other members wrote
REPLAYED_EVENTS = 100  # of a job that was set aside, handled, before that is written down
SET_ASIDE_MAX_JOBS = 10_000  # by one subscription; then nothing more is passed until one is done
SET_ASIDE_ERROR_CHARACTERS = 1_000  # of what a handler said

# --- subscriptions, as operators see them -------------------------------------------------------------------
ADMIN_CALLS = 16  # questions and writes under way at once
ADMIN_LIVE_SECONDS = 5.0  # a subscription whose oldest event is younger counts as live
ADMIN_WRITE_TRIES = 10  # of one record that somebody else writes at the same time
