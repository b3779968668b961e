"""All limits of the service."""

# --- HTTP ---------------------------------------------------------------------------------------------------
BODY_MAX_BYTES = 2 * 1_048_576  # of a request body; a spec with its envelope has less than half
HEADERS_MAX_BYTES = 16_384  # request line and all headers together
HEADERS_TIMEOUT_SECONDS = 5.0  # from the first byte of a request to the end of its headers
REQUEST_ID_MAX_CHARACTERS = 128
ACCESS_PATH_MAX_CHARACTERS = 1_024  # of a path in an access line
RESPONSE_PART_BYTES = 262_144  # larger responses are sent in parts of this size
RESPONSES_MAX_BYTES = 256 * 1_048_576  # of all such responses in memory
RESPONSES_MAX_BYTES_PER_CLIENT = 64 * 1_048_576
SEND_TIMEOUT_SECONDS = 30.0  # for a client to read a part; then it is disconnected
VERSIONS_SCANS_MAX = 4  # concurrent reads of whole histories, for the states of versions
VERSIONS_SCANS_MAX_PER_CLIENT = 2  # the same, for one token

# --- reads --------------------------------------------------------------------------------------------------
OWN_WRITE_WAIT_SECONDS = 1.0  # a read waits for writes acknowledged by this process
JOB_ANSWERS_MAX_BYTES = 32 * 1_048_576  # of the encoded answers to reads of single jobs that are kept
JOB_ANSWER_MAX_BYTES = 65_536  # of a kept answer; larger ones are encoded for each request
JOB_ANSWER_OVERHEAD_BYTES = 768  # of a kept answer: its headers and objects, as an upper estimate
OWN_WRITES_MAX_JOBS = 10_000  # remembered individually until the view has them; older ones by one position
WAIT_DEFAULT_SECONDS = 5.0  # of `wait_for`
HISTORY_DEFAULT_LIMIT = 100
HISTORY_MAX_LIMIT = 1_000
HISTORY_PAGE_BYTES = 4 * 1_048_576  # of states and reasons on one page, but at least one event
FORM_MAX_FIELDS = 1_000  # of a page of the UI
UI_SHOWN_LINES = 2_000  # of a spec or a diff on a page; a page is built in one piece
UI_SHOWN_CHANGES = 500  # of the fields that differ
UI_STOP_MAX_JOBS = 200  # selected ones, or shown of those that match a filter
UI_STOP_MATCHING_MAX_JOBS = 5_000  # stopped with one form, which then shows what still matches
UI_STOP_AT_ONCE = 50  # of them, so that their events share a write
UI_STOP_PAGES = 20  # of the list that are read to find them
QUERY_MAX_PARAMETERS = 100
UNKNOWN_FIELDS_SHOWN = 20  # of a request body, named in a message
DIFF_MAX_BYTES = 131_072  # of each compared spec; larger ones would block other requests
DIFF_MAX_LINES = 4_000  # of each spec as JSON lines: the work grows quadratically
DIFF_MAX_PAIRS = 250_000  # of elements of two lists, compared pairwise; longer lists are compared by position
BLAME_MAX_FIELDS = 4_000  # of a job
BLAME_CHUNK_EVENTS = 16  # of a history, blamed in a thread before it yields
BLAME_CHUNK_BYTES = 65_536  # of the events of a chunk; at least one is included
BLAME_MAX_BYTES = 16 * 1_048_576  # of a response: a long reason is repeated for each field

CHANGES_DEFAULT_LIMIT = 50  # jobs per page of the changes between two points
CHANGES_MAX_LIMIT = 200
CHANGES_COMPARED_AT_ONCE = 8  # specs, in a thread, before it yields
CHANGES_SHOWN = 100  # differences per job

HISTOGRAM_BUCKETS = 60  # intervals
HISTOGRAM_MAX_BUCKETS = 200
HISTOGRAM_AT_ONCE = 16  # concurrent questions to the log
HISTOGRAM_REMEMBERED = 4_096  # answers of the log

# --- idempotency --------------------------------------------------------------------------------------------
IDEMPOTENCY_KEY_MAX_CHARACTERS = 255
ANSWER_MAX_BYTES = 262_144  # of a stored answer; larger ones are not stored (see `idempotency`)
ANSWER_MAX_TRIES = 8  # to store an answer while other replicas store theirs under the same key

# --- tokens, and concurrent requests ------------------------------------------------------------------------
TOKENS_POLL_SECONDS = 0.005  # between stats of the token file: the maximum delay of a revocation
TOKENS_MAX_COUNT = 1_000  # stored, including revoked ones
TOKEN_NAME_MAX_CHARACTERS = 128  # it becomes the actor of events, so below ACTOR_MAX_CHARACTERS
TOKEN_NAMESPACES_MAX_COUNT = 64
TOKEN_EXPIRES_MIN_SECONDS = 1.0
TOKEN_EXPIRES_MAX_SECONDS = 10 * 365 * 86_400.0
SESSIONS_MAX_COUNT = 1_000  # of the web UI; the oldest one ends
SESSIONS_MAX_PER_TOKEN = 50
SESSION_IDLE_SECONDS = 12 * 3_600.0  # without a request
SESSION_LIFETIME_SECONDS = 7 * 86_400.0  # since the sign-in
SESSION_SEEN_SECONDS = 300.0  # between writes of a session's last use
SECRET_FILE_MAX_BYTES = 65_536  # a password, a key, credentials
REQUESTS_MAX_IN_FLIGHT = 2_000  # per process, without feeds, waits and uploads
REQUESTS_KEPT_FOR_WRITES = 500  # slots of REQUESTS_MAX_IN_FLIGHT that reads cannot use
REQUESTS_MAX_PER_CLIENT = 250  # per token
REQUESTS_KEPT_FOR_WRITES_PER_CLIENT = 50  # slots of REQUESTS_MAX_PER_CLIENT that its reads cannot use
WAITS_MAX = 2_000  # requests that wait: for a state, for `wait_for`, in a queue
WAITS_MAX_PER_CLIENT = 250
UPLOADS_MAX = 1_000  # requests whose body is arriving
UPLOADS_MAX_PER_CLIENT = 125
LONG_READ_SLICE_SECONDS = 0.002  # of a read on the event loop before writes have priority
LONG_READ_SLICE_MAX_SECONDS = 0.05  # counted per slice; the rest was waiting for the log
LONG_READ_PAUSE_FACTOR = 4  # the pause before the next slice, in slices, while there are writes
LONG_READ_POLL_SECONDS = 0.005  # between checks for writes; a write counts for this time after its end
LONG_PAGE_ITEMS = 200  # of a list or a history; larger pages are queued
THREAD_SWITCH_SECONDS = 0.0005  # a computing thread may delay the event loop
QUEUE_MAX_PER_CLIENT = 64  # requests of one client waiting in one of the queues below
BODY_TIMEOUT_SECONDS = 30.0  # from the end of the headers to the end of the body
BODIES_MAX_BYTES = 64 * 1_048_576  # of all requests in flight
BODIES_MAX_BYTES_PER_CLIENT = 16 * 1_048_576
SIGN_IN_MAX_BYTES = 4_096  # of the form for a token, which strangers send
SIGN_INS_MAX_BYTES = 64 * 4_096  # of all such forms in flight; they use no other budget
FORM_INLINE_BYTES = 32_768  # of a form; a larger one is parsed in a thread
DISCARD_MAX_BYTES = 64 * 1_048_576  # of a refused body, discarded so that the client reads the response
DISCARD_TIMEOUT_SECONDS = 5.0

# --- operation ----------------------------------------------------------------------------------------------
CONNECTIONS_MAX = 8_192  # per process: requests in flight, feeds, and idle connections
CONNECTIONS_BACKLOG = 1_024  # connections waiting to be accepted
CONNECTIONS_KEPT_FILES = 256  # of the open file limit, for everything else
CONNECTIONS_POLL_SECONDS = 0.5  # between checks whether idle connections must be closed
OPEN_FILES_TARGET = 16_384  # the soft limit is raised to this if the hard limit allows it
OBSERVE_SECONDS = 1.0  # maximum age of the state in /readyz and /metrics
STREAM_RECORD_SECONDS = 10.0  # maximum age of the last sequence in log.json while events arrive
STREAMS_POLL_SECONDS = 15.0  # maximum age of the streams' configuration in /readyz
LOG_PROOF_SECONDS = 10.0  # of a start, to compare the embedded log with the tree of the view
OBSERVE_TIMEOUT_SECONDS = 2.0  # for the answers of log, view and disks
DISK_MIN_FREE_BYTES = 256 * 1_048_576  # the defaults of two settings
DISK_STOP_FREE_BYTES = 64 * 1_048_576
DISK_MIN_FREE_FRACTION = 0.1  # of a small file system, where it is less than the setting
DISK_STOP_FREE_FRACTION = 0.025
LOG_MIN_FREE_BYTES = 2 * 1_048_576  # of the stream's or the account's limit; the largest event has 0.8 MB
LOG_MIN_FREE_FRACTION = 0.1  # of a small limit, where it is less than LOG_MIN_FREE_BYTES
STALL_SECONDS = 5.0  # the log is ahead and the view does not advance: the next event is read directly
REPLICA_LATE_SECONDS = 10.0  # a replica that is not current for this long is reported
BIND_TIMEOUT_SECONDS = 10.0  # from the start of the HTTP server until it accepts connections
UNSENT_GRACE_SECONDS = 2.0  # at shutdown, for clients to read completed responses
COLLECTOR_THRESHOLDS = (20_000, 20, 50)  # of the three generations of the garbage collector
END_TIMEOUT_SECONDS = 20.0  # after the drain: for the log, the view and the embedded server to close
METRIC_LABEL_VALUES_MAX = 100  # per label

UNIX_SECONDS_MAX = 99_999_999_999  # beyond the year 5000: larger numbers are milli-, micro- or nanoseconds

# --- the command line ---------------------------------------------------------------------------------------
CLIENT_CONNECT_TIMEOUT_SECONDS = 5.0
CLIENT_RESPONSE_TIMEOUT_SECONDS = 40.0  # longer than an append may take with all its retries
CLIENT_PROBE_TIMEOUT_SECONDS = 2.0  # `version` and completion: the service may not be running
WATCH_SECONDS = 1.0  # between refreshes of a command with --watch
CLIENT_RESPONSE_MAX_BYTES = 256 * 1_048_576  # larger than a page of jobs with the largest specs
CLIENT_PAGE_JOBS = 200  # per request when all are listed
CLIENT_PAGE_HISTORY = 1_000
CLIENT_PAGE_CHANGES = 100
CLIENT_WRITE_MAX_TRIES = 3  # with one idempotency key, if a response is lost
CLIENT_WAIT_SECONDS = 60.0  # per request of a longer wait for a state
CLIENT_FEED_SILENCE_SECONDS = 45.0  # three heartbeats; then the connection counts as lost
CLIENT_FEED_MAX_TRIES = 13  # consecutive attempts without an event or a heartbeat, before the feed fails
CLIENT_RETRY_WAIT_SECONDS = 0.5  # the first wait; doubles up to the next line
CLIENT_RETRY_MAX_WAIT_SECONDS = 10.0
DESCRIBE_MAX_EVENTS = 1_000  # of a job's timeline that are read
DESCRIBE_SHOWN_EVENTS = 20  # shown of a job's timeline; of a longer one its start and end
COMPLETION_MAX_JOBS = 100  # offered as completions of a job's name

# --- several processes on one port (`workers`) ------------------------------------------------------------
WORKERS_MAX = 8  # one client's share of BODIES_MAX_BYTES_PER_CLIENT must hold BODY_MAX_BYTES
WORKER_START_SECONDS = 60.0  # from its start until a worker accepts requests
WORKER_RESTART_SECONDS = 0.1  # before a worker that ended is replaced; doubles up to the next line
WORKER_RESTART_MAX_SECONDS = 10.0
WORKER_STABLE_SECONDS = 30.0  # a worker that served this long is replaced after the first wait again
WORKER_SILENCE_SECONDS = 30.0  # a worker that does not report for this long hangs, and is killed
WORKER_SUSPEND_SECONDS = 5.0  # to close the view's file before it is replaced; then the worker is killed
WORKER_COLLECT_SECONDS = 2.0  # for a worker's metrics; then those it sent last are used
WORKER_END_SECONDS = 5.0  # after the drain, for a worker to close its log and view; then it is killed
OWNER_ANSWER_SECONDS = 120.0  # for the owner's answer to a request that a worker passed on
CHANNEL_CALLS_MAX = 64  # that wait for a reply, per worker and direction
CHANNEL_BUFFER_BYTES = 8 * 1_048_576  # unread by a worker; then batches are announced without their events
CHANNEL_FRAME_MAX_BYTES = 256 * 1_048_576  # larger than the largest answer, a proof bundle

# --- feeds --------------------------------------------------------------------------------------------------
FEEDS_MAX = 2_000  # open feeds per process, without those of waits
FEEDS_MAX_PER_CLIENT = 250  # the default of a setting
FEED_RING_EVENTS = 10_000  # the latest events, shared by all feeds; older ones are read from the log
FEED_RING_BYTES = 32 * 1_048_576
FEED_SEND_BYTES = 64 * 1_024  # per write to a feed, or one larger event
FEED_GATHER_SECONDS = 0.02  # between wake-ups of feeds: events arriving meanwhile are sent together
FEED_WAKES_AT_ONCE = 64  # feeds woken together; then a pause, for requests
FEED_WAKES_SECONDS = 0.0025  # that pause: 1,000 feeds are woken within 40 ms
FEED_SHARED_CHUNKS = 16  # of at most FEED_SEND_BYTES, shared by the feeds that send the same
FEED_HEARTBEAT_SECONDS = 15.0  # of silence before a comment is sent
FEED_SEND_TIMEOUT_SECONDS = 30.0  # for a reader to accept data; then it is disconnected
FEED_TICK_SECONDS = 1.0  # between checks of all feeds: heartbeats, slow readers, revoked tokens
FEED_CLOSE_SECONDS = 2.0  # for readers to accept the last event when all feeds are closed
FEED_RETRY_SECONDS = 1.0  # before a feed that is catching up retries an unreachable log
FEED_CATCHUPS_MAX = 8  # concurrent reads of log pages, for all feeds
FEED_CATCHUP_BYTES = 256 * 1_024  # of the page that one feed holds while it sends; at least one event
FEED_CATCHUP_JOBS = 4_096  # statuses cached per feed while it catches up
FEED_CATCHUP_READS = 16  # concurrent reads of jobs per feed
FEED_LABELS_SPECS = 4_096  # specs whose labels are cached, for all feeds
FEED_LABELS_CHARACTERS = 1_024  # of the cached labels of one spec; larger ones are read again when needed
EVENTS_DEFAULT_LIMIT = 100
EVENTS_MAX_LIMIT = 1_000
EVENTS_PAGE_BYTES = 4 * 1_048_576  # of one page; at least one event
EVENTS_PAGE_READS = 40  # reads of the log for one page; then it ends early, with the cursor to continue
EVENTS_PAGE_SECONDS = 1.0  # the same; a read that began is finished
WEBHOOK_ATTEMPTS_KEPT = 50  # the latest of each webhook, in memory
UI_EVENTS_ROWS = 500  # that the events page shows and holds; older ones leave it
FEED_SPECS_AT_ONCE = 16  # specs read from the view for their labels
WAIT_STATE_DEFAULT_SECONDS = 30.0  # of `/wait`
WAIT_STATE_MAX_SECONDS = 300.0

# --- direct access of commands to the log -------------------------------------------------------------------
LOG_ACCESS_TIMEOUT_SECONDS = 15.0  # for an embedded server that is starting, stopping or restarting
LOG_ACCESS_WAIT_SECONDS = 0.1  # between attempts

# --- proofs and auditors ------------------------------------------------------------------------------------
BUNDLE_MAX_BYTES = 64 * 1_048_576  # of a proof bundle that is made or read
BUNDLE_MAX_RECORDS = 10_000  # of the job
BUNDLE_PROOF_MAX_HASHES = 63  # a path in the largest possible tree
BUNDLE_TEXT_MAX_CHARACTERS = 16_384  # of any text in a bundle; the seal with its signatures is the longest
AUDIT_CHECK_KEYS_MAX = 64  # passed to one check, from all files
AUDIT_CHECK_KEY_FILE_MAX_BYTES = 65_536  # of a file of keys to check with
PROOF_WAIT_SECONDS = 10.0  # for a view to fold what another replica has already sealed
TREE_TRACKER_PENDING_MAX_LEAVES = 1_000_000  # hashes after the last seal that a watcher keeps: 32 bytes each
TREE_TRACKER_MARKS_MAX = 1_024  # roots kept, which narrow down where old events were changed
AUDIT_FINDINGS_MAX = 20  # reported individually; more are counted
AUDIT_TAKE_EVENTS = 5_000  # read from the log and hashed together
AUDIT_STALL_SECONDS = 10.0  # without a record, before the next sequence is requested from the leader
AUDIT_LEADER_EVENTS = 1_000  # then read one by one from the leader, before a reader is tried again
AUDIT_UNANSWERED_TRIES = 3  # for one event of a log that otherwise answers; then it can't be read
AUDIT_HOLES_MAX = 1_000  # ranges that can't be read, before the rest of the log is given up
AUDIT_HOLE_JOBS = 20  # affected jobs named in a finding; more are counted
AUDIT_LINKS_MAX = 500_000  # jobs whose last event is remembered, to check the predecessors of later ones
AUDIT_SEALED_ROOTS_KEPT = 1_024  # of earlier seals, to compare two of one size
AUDIT_READ_MAX_TRIES = 10  # consecutive attempts before a log that does not answer is given up
AUDIT_READ_WAIT_SECONDS = 1.0  # between two attempts
AUDIT_END_MAX_MISSING = 1_000  # deleted events at the end of a log that are skipped to find its last record
AUDIT_FOLD_TIMEOUT_SECONDS = 60.0  # per transaction of the scratch view; then the log counts as unreachable
SCRUB_RANGE_EVENTS = 2_000  # read from each replica and compared together
SCRUB_RANGES_MAX = 100  # bad ranges named per replica; more are counted
SCRUB_READ_TRIES = 3  # per range of a replica that does not answer; with missing events, 2
SCRUB_RETRY_SECONDS = 1.0  # between two attempts
WATCH_SEALS_SECONDS = 1.0  # between reads of new seals
WATCH_STALL_SECONDS = 20.0  # without an event, before the leader is asked for the next one
WATCH_REREAD_MAX_SECONDS = 30 * 86_400.0  # between two reads of the whole log
WATCH_STEP_SECONDS = 1.0  # a watcher waits for events before it checks seals and time
WATCH_SAVE_SECONDS = 2.0  # between writes of a watcher's state
WATCH_RETRY_SECONDS = 1.0  # before a log that does not answer is retried; doubles up to the next line
WATCH_RETRY_MAX_SECONDS = 30.0
WATCH_ONCE_MAX_TRIES = 6  # of `--once`
WATCH_WEBHOOK_TIMEOUT_SECONDS = 10.0
WATCH_WEBHOOK_MAX_TRIES = 3

# --- webhooks -----------------------------------------------------------------------------------------------
WEBHOOKS_MAX_COUNT = 100  # per log
WEBHOOK_NAME_MAX_CHARACTERS = 48  # with its prefix it is the name of a subscription
WEBHOOK_URL_MAX_CHARACTERS = 2_048
WEBHOOK_LABELS_MAX_COUNT = 20  # selectors per webhook
WEBHOOK_SECRET_MIN_BYTES = 24  # this and the next line as in Standard Webhooks
WEBHOOK_SECRET_MAX_BYTES = 64
WEBHOOK_SECRET_BYTES = 32  # of a generated secret
WEBHOOK_SECRETS_MAX_COUNT = 4  # that sign during a rotation
WEBHOOK_OVERLAP_SECONDS = 86_400.0  # the default overlap of old and new secret
WEBHOOK_OVERLAP_MAX_SECONDS = 30 * 86_400.0
WEBHOOKS_POLL_SECONDS = 2.0  # between reads of all webhooks: the maximum delay of a change on another replica
WEBHOOK_ADDRESSES_MAX_COUNT = 4  # of one name that are tried
WEBHOOK_CONNECT_TIMEOUT_SECONDS = 5.0
WEBHOOK_TIMEOUT_SECONDS = 15.0  # from name resolution to the response headers
WEBHOOK_CONNECTIONS_MAX = 100
WEBHOOK_KEYS_MAX_COUNT = 8  # that decrypt secrets; the newest one encrypts
WEBHOOK_RETRIES = 8  # of an event that the target rejects, before its job is parked: about 4 minutes
WEBHOOK_RETRY_AFTER_MAX_SECONDS = 3_600.0  # the longest `Retry-After` that is honored
WEBHOOK_OUTAGE_JOBS = 3  # with consecutive failures, before the target counts as down
WEBHOOK_OUTAGE_WAIT_SECONDS = 1.0  # before a target that is down is tried again; doubles up to the next line
WEBHOOK_OUTAGE_MAX_WAIT_SECONDS = 60.0
WEBHOOK_HOLD_MAX_SECONDS = 3_600.0  # an event waits for a target that is down; then it counts as failed
WEBHOOK_DRAIN_SECONDS = 3.0  # at shutdown, for deliveries in flight
WEBHOOK_RESTART_SECONDS = 1.0  # before a failed deliverer is restarted; doubles up to the next line
WEBHOOK_RESTART_MAX_SECONDS = 60.0

# --- event replay (`events replay`) -------------------------------------------------------------------------
REPLAY_CHUNK_EVENTS = 2_500  # read, folded and written together
REPLAY_SCAN_FACTOR = 500  # events before the range, per event in it, up to which all are read
REPLAY_FEED_CHUNK_EVENTS = 500  # written together when reading a service's feed
REPLAY_WRITE_GRACE_SECONDS = 2.0  # after Ctrl-C: for a write to a reader that may have stopped
REPLAY_PROGRESS_SECONDS = 0.2  # between progress updates
PARQUET_GROUP_ROWS = 65_536  # of a row group, which is kept in memory until complete
PARQUET_GROUP_BYTES = 32 * 1_048_576  # of the documents in a row group

# --- administration of subscriptions ------------------------------------------------------------------------
PARKED_DEFAULT_LIMIT = 100  # jobs per list
PARKED_MAX_LIMIT = 1_000
SUBSCRIPTIONS_POLL_SECONDS = 10.0  # maximum age of the subscriptions in /metrics
SUBSCRIPTIONS_READ_TIMEOUT_SECONDS = 5.0

# --- seals --------------------------------------------------------------------------------------------------
NOTE_MAX_BYTES = 65_536  # of a signed note; typical ones have 250
NOTE_MAX_SIGNATURES = 100
VIEW_CHECK_SECONDS = 900.0  # between checks of the view's file; the default of a setting
SEAL_POLL_SECONDS = 0.25  # between checks of the size of the tree
SEAL_RETRY_SECONDS = 5.0  # after a failure to seal
SEAL_MAX_TRIES = 10  # consecutive attempts while other replicas publish theirs
SEAL_SCAN_NOTES = 2_000  # of the stream of seals, examined per call
SEAL_ORIGINS_MAX = 64  # other logs whose seals are remembered
SEAL_ACCEPTED_MAX = 256  # confirmations in one file
SEAL_REASON_MAX_CHARACTERS = 512  # of a confirmation; it becomes part of a signed note
PROOF_SEALS_MAX = 500  # the newest notes in which a proof looks for a seal by a trusted key
SEALS_DEFAULT_LIMIT = 50
SEALS_MAX_LIMIT = 500
SEALS_FILE_TAIL_BYTES = 262_144  # of the seal file, read for the last seals
AUDIT_KEY_NAME_MAX_CHARACTERS = 128  # a seal with AUDIT_KEYS_MAX signatures still fits into a bundle
AUDIT_KEYS_MAX = 64  # in one file, including retired ones
KEY_OVERLAP_MAX_DAYS = 3_650
