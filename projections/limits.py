"""The limits of the read side."""

# --- SQLite -------------------------------------------------------------------------------------------------
BUSY_TIMEOUT_SECONDS = 10.0  # wait for a lock of another process
PAGE_CACHE_BYTES = 64 * 1_048_576  # per writing connection
READER_PAGE_CACHE_BYTES = 16 * 1_048_576
CHECKPOINT_ROWS = 2_000  # written before the write-ahead log is moved into the file in the background
WAL_CHECKPOINT_PAGES = 16_000  # about 66 MB of write-ahead log: a commit then moves it into the file itself
CATCH_UP_MIN_EVENTS = 10_000  # behind the log: a projector with more to fold uses the next two limits
CATCH_UP_PAGE_CACHE_BYTES = 80 * 1_048_576  # of the writing connection, instead of PAGE_CACHE_BYTES
CATCH_UP_CHECKPOINT_PAGES = 32_000  # about 131 MB of write-ahead log, instead of WAL_CHECKPOINT_PAGES
WAL_KEPT_BYTES = 4_000 * 4_096  # a longer write-ahead log, left by a long read, is truncated when idle
READERS_MAX = 4  # read connections of one view, each with a thread
READER_PACK_STATEMENTS = 64  # short ones queued on one connection before the next one is used

# --- damage to the view -------------------------------------------------------------------------------------
VIEW_POLL_SECONDS = 1.0  # between checks that the file exists and was not replaced or truncated
VIEW_DAMAGED_KEPT = 2  # renamed damaged files; older ones are deleted
VIEW_REBUILDS_MAX = 5  # within VIEW_REBUILDS_SECONDS; one more stops the projector
VIEW_REBUILDS_SECONDS = 600.0
VIEW_IO_ERRORS_MAX = 5  # consecutive; one more and the file counts as damaged
VIEW_CHECK_ROWS = 32  # jobs that one background check refolds
VIEW_CHECK_EVENTS = 1_000  # of one job; jobs with more are skipped

# --- projecting ---------------------------------------------------------------------------------------------
COMMIT_MAX_EVENTS = 5_000  # folded in one transaction
COMMIT_MAX_BYTES = 16 * 1_048_576  # of payloads in one transaction
FOLD_CACHE_JOBS = 65_536  # cached statuses; others are read from the view
PARAMETERS_PER_STATEMENT = 20_480  # of one INSERT or UPDATE of many rows; SQLite's limit is 32,766
FOLD_CACHE_MESSAGE_CHARACTERS = 1_024  # of a state; statuses with more, or with details, are not cached
FOLD_CACHE_TAGS = 8  # of a job; statuses with more are not cached
LOOKUP_CHUNK = 5_000  # ids in one statement
LOOKUP_ON_LOOP_MAX = 16  # ids that are looked up on the event loop itself; more are in a thread
ANOMALIES_KEPT = 10_000  # rows; all are counted
RECONNECT_WAIT_SECONDS = 0.2  # first wait after an error; doubles up to the maximum
RECONNECT_MAX_WAIT_SECONDS = 5.0

# --- queries ------------------------------------------------------------------------------------------------
LIST_DEFAULT_LIMIT = 50
LIST_MAX_LIMIT = 1_000
PAGE_MAX_BYTES = 8 * 1_048_576  # of specs and states on one page, but at least one job
SHORT_ID_MIN_CHARACTERS = 3  # `j-` and at least one character
CANDIDATES_SHOWN = 5  # for an ambiguous short id
SELECTOR_MAX_CHARACTERS = 4_096
SELECTOR_MAX_REQUIREMENTS = 32
SELECTOR_MAX_VALUES = 256  # in one `in (…)`
CURSOR_MAX_CHARACTERS = 1_024
WAIT_DEFAULT_SECONDS = 5.0
WAIT_MAX_SECONDS = 60.0
# Between polls of a process without a projector; doubles up to the maximum
WAIT_POLL_SECONDS = 0.005
WAIT_POLL_MAX_SECONDS = 0.05
SHORT_WALK_ROWS = 128  # a scope with fewer jobs is always walked
WALK_MAX_ARMS = 64  # namespaces times states in one UNION ALL; SQLite allows 500
COUNT_MAX_JOBS = 10_000  # counted per state; more are not
COUNT_SCAN_MAX_ROWS = 10_000  # tested per state; further jobs are not counted
NAME_PART_MAX_CHARACTERS = 128  # of a search for a part of the name
CREATED_COUNT_MAX_JOBS = 1_000  # counted per interval of time; more are not
LIST_SCAN_MAX_ROWS = 10_000  # tested for one page of such a search, or a bounded one; it then ends early
RARE_MAX_ROWS = 4_096  # found and sorted by a driver; if there are more, the order is walked
DIGEST_CHUNK_ROWS = 2_000  # rows per read
DIGEST_CHUNK_SPECS = 64  # rows with specs per read; specs are large

# --- folding what a reader reads ----------------------------------------------------------------------------
TRACKER_MAX_JOBS = 65_536  # cached by one reader; other jobs are read from the log
TRACKER_MAX_BYTES = 128 * 1_048_576
TRACKER_MAX_NUMBERS = 500_000  # jobs whose name and numbers a replay caches; about 230 bytes each
TRACKER_MAX_NAMESPACES = 10_000  # that the compact cache numbers; a job of another namespace counts as four
TRACKER_READS = 32  # jobs that one reader reads from the log at once
TRACKER_SCAN_FACTOR = 50  # records read in a row at the price of one job: measured, 30 to 100
TRACKER_EVICTED_BITS = 64 * 1_048_576  # of the filter of evicted jobs: 8 MB, allocated at the first eviction

# --- as of an earlier point ---------------------------------------------------------------------------------
ASOF_FOLD_EVENTS = 2_500  # folded into a snapshot without yielding to the event loop
ASOF_BATCH_JOBS = 50_000  # changed jobs in memory before they are written to a snapshot
ASOF_BATCH_BYTES = 32 * 1_048_576  # of their events
ASOF_MAX_COPIES = 8  # default of the setting
ASOF_MAX_BYTES = 4 * 1_073_741_824
ASOF_READERS = 2  # connections to one snapshot, each with a thread
ASOF_BUILDS_MAX = 4  # running or queued builds of one client; then AsOfBusy
ASOF_BUILDS_MAX_TOTAL = 64  # running or queued builds of all clients
ASOF_BUILDS_AT_ONCE = 2  # running builds, each in a thread and for another client
ASOF_WAIT_SECONDS = 30.0  # for a build; then AsOfBusy, while the build continues
ASOF_RETRY_SECONDS = 5  # in AsOfBusy
ASOF_NEAR_EVENTS = 20_000  # distance of the extra snapshot before a requested point
ASOF_NEAR_MAX_EVENTS = 40_000  # folded on top of a snapshot; beyond, the live view is tried first
ASOF_EVENTS_PER_JOB_READ = 16  # events that fold in the time of reading one job
ASOF_READS = 32  # concurrent reads of jobs from the log
ASOF_READS_MAX_JOBS = 50_000  # read individually for one snapshot
ASOF_DIRECT_FIRST_EVENTS = 2_000  # before the point, read first for a page of the jobs modified last …
ASOF_DIRECT_EVENTS = 32_000  # … and at most; the same number of records and specs of these jobs
ASOF_DIRECT_JOBS = 512  # folded for such a page, or for one in the order of creation
ASOF_DIRECT_JOB_EVENTS = 1_000  # of one of these jobs: it is folded in one piece
ASOF_DIRECT_BYTES = ASOF_BATCH_BYTES  # of the records of these jobs
ASOF_DIRECT_MAX_PAGES = 4  # found at the same time; others wait
ASOF_DIRECT_PER_CLIENT = 2  # of these
ASOF_DIRECT_WAITING = 16  # of one client; then AsOfBusy
ASOF_DIRECT_REMEMBERED = 10_000  # pages that needed a snapshot
ASOF_DIRECT_SECONDS = 5  # for such a page, with the wait; a snapshot takes over
CHANGES_JOB_EVENTS = 50  # shown of one changed job; all are counted
CHANGES_PAGE_JOBS = 512  # examined for one page
CHANGES_READS = 8  # concurrent reads of jobs; the server handles requests one by one
CHANGES_PAGE_EVENTS = 50_000  # read for one page, or those of CHANGES_READS jobs
CHANGES_PAGE_BYTES = 4 * 1_048_576  # of specs, states and events on one page, but at least one job
CHANGES_JOB_BYTES = 1_048_576  # of the shown events of one job, but at least one
ASOF_LATE_INDEX_EVENTS = 50_000  # from this many on, list indexes are created after the fold

# --- quarantine and damage ----------------------------------------------------------------------------------
HEAL_PAGE_JOBS = 100  # jobs read at once; each is refolded and written separately
CLOCK_LOG_LINES = 100  # for backward steps of the stream's time; all are counted
QUARANTINE_LOG_LINES = 100  # for quarantined jobs; all are counted

# --- the Merkle tree ----------------------------------------------------------------------------------------
PROOFS_AT_ONCE = 32  # inclusion proofs per read: about a hundred tiles, at most 5 ms of hashing

# --- subscriptions ------------------------------------------------------------------------------------------
SUBSCRIPTION_NAME_MAX_CHARACTERS = 64
SUBSCRIPTION_PARTITIONS = 32  # of an elastic group: one per shard, which the server filters fastest
SUBSCRIPTION_MEMBERS_MAX = 32  # members or partitions: the number of shards
SUBSCRIPTION_BUFFER_EVENTS = 4_000  # buffered for the handler, over all partitions
SUBSCRIPTION_BUFFER_BYTES = 8 * 1_048_576  # the same; plus at most one large event per partition
SUBSCRIPTION_CHUNK_EVENTS = 250  # folded at once: the most events that are ready to be handled …
SUBSCRIPTION_CHUNK_BYTES = 1_048_576  # … and their approximate size
SUBSCRIPTION_TURN_SECONDS = 0.02  # of a partition, before other tasks and partitions get their turn
ACKNOWLEDGE_EVENTS = 500  # handled before an acknowledgement is sent, while more are ready …
ACKNOWLEDGE_SECONDS = 0.1  # … or at most this long
RELEASE_MAX_PARTITIONS = 4  # that an elastic member releases at once
RETRIES_DEFAULT = 5  # of a failed event before its job is parked
RETRIES_MAX = 100
RETRY_FIRST_SECONDS = 1.0  # before the first retry; doubles up to RETRY_LAST_SECONDS
RETRY_LAST_SECONDS = 300.0
RETRY_QUEUE_REFRESH_SECONDS = 1.0  # between two reads of what operators and other members wrote
REDELIVERY_SAVE_EVENTS = 100  # redelivered events of a job before the progress is saved
RETRY_QUEUE_MAX_JOBS = 10_000  # per subscription; then a failed event is retried in place
PARKED_ERROR_MAX_CHARACTERS = 1_000  # of a handler's error

# --- subscriptions, as operators see them -------------------------------------------------------------------
ADMIN_CALLS = 16  # concurrent reads and writes
ADMIN_LIVE_SECONDS = 5.0  # a subscription whose oldest event is younger counts as live
ADMIN_WRITE_TRIES = 10  # of one record that is written concurrently

# --- jobs of a view for the commands of a ledger
KNOWN_CONFIRM_SECONDS = 1.0  # to compare the view with the log; then the job is read from the log
KNOWN_RETRY_SECONDS = 1.0  # after a comparison that failed; until then jobs are read from the log
