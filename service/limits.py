"""Every bound of the service, by name."""

# --- HTTP ---------------------------------------------------------------------------------------------------
BODY_MAX_BYTES = 2 * 1_048_576  # of a request; a spec with its envelope has less than half of it
HEADERS_MAX_BYTES = 16_384  # request line and all headers together
HEADERS_TIMEOUT_SECONDS = 5.0  # from the first byte of a request to the end of its headers
REQUEST_ID_MAX_CHARACTERS = 128
ACCESS_PATH_MAX_CHARACTERS = 1_024  # of a path in an access line
ANSWER_PART_BYTES = 262_144  # a larger answer leaves in parts of this size
ANSWERS_MAX_BYTES = 256 * 1_048_576  # of all such answers that wait for their readers
ANSWERS_MAX_BYTES_PER_CLIENT = 64 * 1_048_576
SEND_TIMEOUT_SECONDS = 30.0  # for a part to leave; then the reader is cut off
VERSIONS_SCANS_MAX = 4  # histories that are read as a whole at once, for the states of versions
VERSIONS_SCANS_MAX_PER_CLIENT = 2  # of these, for one client while it has a token

# --- reading ------------------------------------------------------------------------------------------------
OWN_WRITE_WAIT_SECONDS = 1.0  # how long a read waits for what this very process has acknowledged
OWN_WRITES_MAX_JOBS = 10_000  # remembered one by one until the view has them; the rest by one position
WAIT_DEFAULT_SECONDS = 5.0  # of `wait_for`
HISTORY_DEFAULT_LIMIT = 100
HISTORY_MAX_LIMIT = 1_000
HISTORY_PAGE_BYTES = 4 * 1_048_576  # of states and reasons on one page, but at least one event
QUERY_MAX_PARAMETERS = 100
UNKNOWN_FIELDS_TOLD = 20  # of a request's body
DIFF_MAX_BYTES = 131_072  # of each spec that is compared; comparing longer ones would hold up everybody
DIFF_MAX_LINES = 4_000  # of each, as JSON in lines: the work grows with their square
DIFF_MAX_PAIRS = 250_000  # of two lists' elements, compared each with each; longer ones by position
BLAME_MAX_FIELDS = 4_000  # of a job, each blamed on an event
BLAME_CHUNK_EVENTS = 16  # of a history, blamed in a thread before others have their turn
BLAME_CHUNK_BYTES = 65_536  # of these, but at least one
BLAME_MAX_BYTES = 16 * 1_048_576  # of an answer: a reason can be long, and stands at each field

CHANGES_DEFAULT_LIMIT = 50  # jobs on a page of what changed between two points
CHANGES_MAX_LIMIT = 200
CHANGES_COMPARED_AT_ONCE = 8  # jobs' specs, in a thread, before others have their turn
CHANGES_SHOWN = 100  # places where one job's specs differ

# --- idempotency --------------------------------------------------------------------------------------------
IDEMPOTENCY_KEY_MAX_CHARACTERS = 255
ANSWER_MAX_BYTES = 262_144  # of a kept answer; a larger one is not kept (see `idempotency`)
ANSWER_MAX_TRIES = 8  # to keep an answer while other replicas keep theirs under the same key

# --- who may ask, and how much at once ----------------------------------------------------------------------
TOKENS_LOOK_SECONDS = 0.005  # how long a look at the token file counts, so how late a revocation may come
TOKENS_MAX_COUNT = 1_000  # kept, also revoked ones
TOKEN_NAME_MAX_CHARACTERS = 128  # it becomes the actor of events, so below ACTOR_MAX_CHARACTERS
TOKEN_NAMESPACES_MAX_COUNT = 64
TOKEN_EXPIRES_MIN_SECONDS = 1.0
TOKEN_EXPIRES_MAX_SECONDS = 10 * 365 * 86_400.0
SECRET_FILE_MAX_BYTES = 65_536  # a password, a key, credentials
REQUESTS_MAX_IN_FLIGHT = 2_000  # of one process that are worked on; feeds, waits and uploads are not
REQUESTS_KEPT_FOR_WRITES = 500  # of these, which reads can't take
REQUESTS_MAX_PER_CLIENT = 250  # of one token
REQUESTS_KEPT_FOR_WRITES_PER_CLIENT = 50  # of these, which its reads can't take
WAITS_MAX = 2_000  # requests that wait: for a state, for `wait_for`, for their turn
WAITS_MAX_PER_CLIENT = 250
UPLOADS_MAX = 1_000  # requests whose body is arriving
UPLOADS_MAX_PER_CLIENT = 125
LONG_READ_SLICE_SECONDS = 0.002  # on the event loop, of a read, before writes go first
LONG_READ_SLICE_MAX_SECONDS = 0.05  # counted for one; the rest was spent on waiting for the log
LONG_READ_PAUSE_FACTOR = 4  # so many times a slice pass before the next one, while there are writes
LONG_READ_LOOK_SECONDS = 0.005  # between two looks at whether there are; one counts for so long after its end
LONG_PAGE_ITEMS = 200  # of a list or a history; a larger page takes a turn
THREAD_SWITCH_SECONDS = 0.0005  # for which a thread that computes may keep the event loop waiting
QUEUE_MAX_PER_CLIENT = 64  # requests of one client that wait for one of the queues below
BODY_TIMEOUT_SECONDS = 30.0  # from the end of the headers to the end of the body
BODIES_MAX_BYTES = 64 * 1_048_576  # of all requests in flight together
BODIES_MAX_BYTES_PER_CLIENT = 16 * 1_048_576
DISCARD_MAX_BYTES = 64 * 1_048_576  # of a refused request: taken and forgotten, so that it reads the answer
DISCARD_TIMEOUT_SECONDS = 5.0

# --- operation ----------------------------------------------------------------------------------------------
CONNECTIONS_MAX = 8_192  # of one process: requests in flight, feeds, and connections that are kept alive
CONNECTIONS_BACKLOG = 1_024  # that wait to be accepted
CONNECTIONS_KEPT_FILES = 256  # of the limit of open files, for everything else
CONNECTIONS_LOOK_SECONDS = 0.5  # between two looks at whether idle ones must make room
OPEN_FILES_WANTED = 16_384  # the soft limit is raised to this where the hard one allows it
OBSERVE_SECONDS = 1.0  # how old what /readyz and /metrics say of the log may be
STREAM_RECORD_SECONDS = 10.0  # how old the last sequence in log.json may be while events arrive
STREAMS_LOOK_SECONDS = 15.0  # how old what /readyz says of the streams' configuration may be
LOG_PROOF_SECONDS = 10.0  # of a start, for comparing the embedded log with the tree of the view
OBSERVE_TIMEOUT_SECONDS = 2.0  # for the log's and the view's answers to that
DISK_MIN_FREE_BYTES = 256 * 1_048_576  # the defaults of two settings
DISK_STOP_FREE_BYTES = 64 * 1_048_576
DISK_MIN_FREE_FRACTION = 0.1  # of a file system on which the settings would be more than that
DISK_STOP_FREE_FRACTION = 0.025
LOG_MIN_FREE_BYTES = 2 * 1_048_576  # below the stream's or the account's limit; the largest event has 0.8 MB
LOG_MIN_FREE_FRACTION = 0.1  # of a limit of which that would be more
STALL_SECONDS = 5.0  # the log is ahead and the view does not move: the next event is read directly
REPLICA_LATE_SECONDS = 10.0  # a replica that is not current for so long is shown
BIND_TIMEOUT_SECONDS = 10.0  # from the start of the HTTP server until it accepts connections
UNSENT_GRACE_SECONDS = 2.0  # at the end, for answers that are ready to be read
COLLECTOR_THRESHOLDS = (20_000, 20, 50)  # objects, then collections, before garbage is looked for
END_TIMEOUT_SECONDS = 20.0  # after the drain: for the log, the view and the embedded server to close
METRIC_LABEL_VALUES_MAX = 100  # of one label

UNIX_SECONDS_MAX = 99_999_999_999  # beyond the year 5000: milli-, micro- or nanoseconds are meant

# --- the command line ---------------------------------------------------------------------------------------
CLIENT_CONNECT_TIMEOUT_SECONDS = 5.0
CLIENT_ANSWER_TIMEOUT_SECONDS = 40.0  # longer than an append may take with all its tries
CLIENT_PROBE_TIMEOUT_SECONDS = 2.0  # `version` and completion: the service may well not be there
WATCH_SECONDS = 1.0  # between two looks of a command with --watch
CLIENT_ANSWER_MAX_BYTES = 256 * 1_048_576  # a page of jobs with the fattest specs is under it
CLIENT_PAGE_JOBS = 200  # asked for at once when all are wanted
CLIENT_PAGE_HISTORY = 1_000
CLIENT_PAGE_CHANGES = 100
CLIENT_WRITE_MAX_TRIES = 3  # with one idempotency key, when an answer is lost
CLIENT_WAIT_SECONDS = 60.0  # one request's share of a longer wait for a state
CLIENT_FEED_SILENCE_SECONDS = 45.0  # three heartbeats; then the connection counts as lost
CLIENT_FEED_MAX_TRIES = 10  # in a row without an event or a heartbeat, then the feed is given up
CLIENT_RETRY_WAIT_SECONDS = 0.5  # the first; doubles up to the next line
CLIENT_RETRY_MAX_WAIT_SECONDS = 10.0
DESCRIBE_MAX_EVENTS = 1_000  # of a job's timeline that are read
DESCRIBE_SHOWN_EVENTS = 20  # of those; of a longer timeline the beginning and the end
COMPLETION_MAX_JOBS = 100  # offered when a job's name is completed

# --- feeds --------------------------------------------------------------------------------------------------
FEEDS_MAX = 2_000  # open at once in one process, without those of waits
FEEDS_MAX_PER_CLIENT = 250  # the default of a setting
FEED_RING_EVENTS = 10_000  # the last events, kept for all feeds together; older ones are read from the log
FEED_RING_BYTES = 32 * 1_048_576
FEED_SEND_BYTES = 64 * 1_024  # sent at once to one feed, or one event that is larger
FEED_GATHER_SECONDS = 0.02  # between two wake-ups of feeds: what comes meanwhile is sent together
FEED_HEARTBEAT_SECONDS = 15.0  # of silence before a comment is sent
FEED_SEND_TIMEOUT_SECONDS = 30.0  # for a reader to take what was sent; then it is disconnected
FEED_TICK_SECONDS = 1.0  # between two looks at all feeds: heartbeats, slow readers, revoked tokens
FEED_CLOSE_SECONDS = 2.0  # for readers to take the last event when all feeds are closed
FEED_RETRY_SECONDS = 1.0  # before a feed that catches up asks a log again that it could not reach
FEED_CATCHUPS_MAX = 8  # pages read from the log at once, for all feeds together
FEED_CATCHUP_BYTES = 256 * 1_024  # of a page that one feed holds while it sends; at least one event
FEED_CATCHUP_JOBS = 4_096  # statuses that one feed remembers while it catches up
FEED_CATCHUP_READS = 16  # jobs whose beginnings one feed reads at once
FEED_LABELS_SPECS = 4_096  # specs whose labels are remembered, for all feeds together
FEED_LABELS_CHARACTERS = 1_024  # of the labels of one spec; larger ones are read again when they are needed
FEED_SPECS_AT_ONCE = 16  # specs read from the view for their labels
WAIT_STATE_DEFAULT_SECONDS = 30.0  # of `/wait`
WAIT_STATE_MAX_SECONDS = 300.0

# --- the log itself, for commands ---------------------------------------------------------------------------
LOG_ACCESS_TIMEOUT_SECONDS = 15.0  # for an embedded server that starts, ends or is started again just now
LOG_ACCESS_WAIT_SECONDS = 0.1  # before it is looked for again

# --- proofs and auditors ------------------------------------------------------------------------------------
BUNDLE_MAX_BYTES = 64 * 1_048_576  # of a proof bundle; what is larger is not made, and not read
BUNDLE_MAX_RECORDS = 10_000  # of the job
BUNDLE_PROOF_MAX_HASHES = 63  # a path in the largest tree that a stream could have
BUNDLE_TEXT_MAX_CHARACTERS = 16_384  # of any text in it: the seal with its signatures is the longest
AUDIT_CHECK_KEYS_MAX = 64  # given to one check, from all files together
AUDIT_CHECK_KEY_FILE_MAX_BYTES = 65_536  # of keys to check with
PROOF_WAIT_SECONDS = 10.0  # for a view to fold what another replica has sealed already
WITNESS_PENDING_MAX_LEAVES = 1_000_000  # hashes behind the last seal that a watcher keeps: 32 bytes each
WITNESS_MARKS_MAX = 1_024  # roots along the way, by which it tells where a past was changed
AUDIT_FINDINGS_MAX = 20  # told one by one; more are counted
AUDIT_TAKE_EVENTS = 5_000  # read from the log and hashed at once
AUDIT_STALL_SECONDS = 10.0  # without a record, then the leader is asked for the next sequence itself
AUDIT_LEADER_EVENTS = 1_000  # read one by one from the leader then, before a feed is tried again
AUDIT_UNANSWERED_TRIES = 3  # for one event of a log that answers otherwise; then it can't be read
AUDIT_HOLES_MAX = 1_000  # ranges that can't be read, before the rest of the log is given up
AUDIT_HOLE_JOBS = 20  # affected jobs that a finding names; more are counted
AUDIT_LINKS_MAX = 500_000  # jobs whose last event is remembered, to check what later ones name
AUDIT_SEALED_ROOTS_KEPT = 1_024  # of seals behind, by which two of one size are compared
AUDIT_READ_MAX_TRIES = 10  # in a row, before a log that does not answer is given up
AUDIT_READ_WAIT_SECONDS = 1.0  # between two of them
AUDIT_END_MAX_MISSING = 1_000  # deleted events at a log's end that are looked past for its last record
AUDIT_FOLD_TIMEOUT_SECONDS = (
    60.0  # for one transaction of the scratch view; then the log counts as out of reach
)
SCRUB_RANGE_EVENTS = 2_000  # read from each replica and compared at once
SCRUB_RANGES_MAX = 100  # bad ranges of one replica that are named; more are counted
SCRUB_READ_TRIES = 3  # of one range of one replica that does not answer; of one with missing events, 2
SCRUB_RETRY_SECONDS = 1.0  # between two of them
WATCH_SEALS_SECONDS = 1.0  # between two looks at the seals
WATCH_STALL_SECONDS = 20.0  # without an event, then the leader is asked whether there is a next one
WATCH_REREAD_MAX_SECONDS = 30 * 86_400.0  # between two readings of the whole log
WATCH_STEP_SECONDS = 1.0  # a watcher waits for events, before it looks at seals, and at the clock
WATCH_SAVE_SECONDS = 2.0  # between two times that a watcher's state is written
WATCH_RETRY_SECONDS = 1.0  # before a log that does not answer is tried again; doubles up to the next line
WATCH_RETRY_MAX_SECONDS = 30.0
WATCH_ONCE_MAX_TRIES = 5  # of `--once`
WATCH_WEBHOOK_TIMEOUT_SECONDS = 10.0
WATCH_WEBHOOK_MAX_TRIES = 3

# --- webhooks -----------------------------------------------------------------------------------------------
WEBHOOKS_MAX_COUNT = 100  # of one log
WEBHOOK_NAME_MAX_CHARACTERS = 48  # with its prefix it is the name of a subscription
WEBHOOK_URL_MAX_CHARACTERS = 2_048
WEBHOOK_LABELS_MAX_COUNT = 20  # selectors of one webhook
WEBHOOK_SECRET_MIN_BYTES = 24  # as Standard Webhooks says, and the next line, too
WEBHOOK_SECRET_MAX_BYTES = 64
WEBHOOK_SECRET_BYTES = 32  # of one that is made here
WEBHOOK_SECRETS_MAX_COUNT = 4  # that sign at once, while one takes over from another
WEBHOOK_OVERLAP_SECONDS = 86_400.0  # for which an old secret signs beside the new one, if nobody says
WEBHOOK_OVERLAP_MAX_SECONDS = 30 * 86_400.0
WEBHOOKS_LOOK_SECONDS = 2.0  # between two looks at all of them: how late a change on another replica comes
WEBHOOK_ADDRESSES_MAX_COUNT = 4  # of one name that are tried
WEBHOOK_CONNECT_TIMEOUT_SECONDS = 5.0
WEBHOOK_TIMEOUT_SECONDS = 15.0  # from the name's resolution to the head of the answer
WEBHOOK_CONNECTIONS_MAX = 100
WEBHOOK_KEYS_MAX_COUNT = 8  # that encrypt secrets; the newest of them, and the others decrypt what is left
WEBHOOK_RETRIES = 8  # of an event that the target does not take, before its job is parked: some 4 minutes
WEBHOOK_RETRY_AFTER_MAX_SECONDS = 3_600.0  # for which a target may ask to be left alone
WEBHOOK_OUTAGE_JOBS = 3  # whose events fail in a row, and the target counts as down
WEBHOOK_OUTAGE_WAIT_SECONDS = 1.0  # before a target that is down is asked again; doubles up to the next line
WEBHOOK_OUTAGE_MAX_WAIT_SECONDS = 60.0
WEBHOOK_HOLD_MAX_SECONDS = 3_600.0  # one event waits for a target that is down; then it counts as failed
WEBHOOK_DRAIN_SECONDS = 3.0  # at the end, for deliveries under way
WEBHOOK_RESTART_SECONDS = 1.0  # before a deliverer that broke starts again; doubles up to the next line
WEBHOOK_RESTART_MAX_SECONDS = 60.0

# --- telling events again (`events replay`) -----------------------------------------------------------------
REPLAY_CHUNK_EVENTS = 2_500  # read, folded and written together
REPLAY_SCAN_FACTOR = 500  # events before the first one told, for each that is told, that are rather all read
REPLAY_FEED_CHUNK_EVENTS = 500  # written together where a service's feed is read
REPLAY_WRITE_GRACE_SECONDS = 2.0  # after Ctrl-C: for what is being written to a reader that may have stopped
REPLAY_PROGRESS_SECONDS = 0.2  # between two looks of who watches
PARQUET_GROUP_ROWS = 65_536  # of a row group, which is kept in memory until it is whole
PARQUET_GROUP_BYTES = 32 * 1_048_576  # of documents in one

# --- subscriptions, as operators see them -------------------------------------------------------------------
PARKED_DEFAULT_LIMIT = 100  # jobs on one list
PARKED_MAX_LIMIT = 1_000
SUBSCRIPTIONS_LOOK_SECONDS = 10.0  # how old what /metrics says of them may be
SUBSCRIPTIONS_LOOK_TIMEOUT_SECONDS = 5.0

# --- seals --------------------------------------------------------------------------------------------------
NOTE_MAX_BYTES = 65_536  # of a signed note; ours have some 250
NOTE_MAX_SIGNATURES = 100
VIEW_CHECK_SECONDS = 900.0  # between two checks of the view's file, unless the settings say otherwise
SEAL_LOOK_SECONDS = 0.25  # between two looks at how far the tree is
SEAL_RETRY_SECONDS = 5.0  # after a seal could not be made
SEAL_MAX_TRIES = 10  # in a row, while other replicas publish theirs
SEAL_SCAN_NOTES = 2_000  # of the stream of seals, examined before anything else has its turn
SEAL_ORIGINS_MAX = 64  # other logs whose seals are remembered, by a trusted key each
SEAL_ACCEPTED_MAX = 256  # confirmations of operators in one file
SEAL_REASON_MAX_CHARACTERS = 512  # of a confirmation; it becomes part of a signed note
PROOF_SEALS_MAX = 500  # the newest notes among which a proof looks for a seal by a trusted key
SEALS_DEFAULT_LIMIT = 50
SEALS_MAX_LIMIT = 500
SEALS_FILE_TAIL_BYTES = 262_144  # of the file of seals, read for the last one
AUDIT_KEY_NAME_MAX_CHARACTERS = 128  # a seal with AUDIT_KEYS_MAX signatures still fits into a bundle
AUDIT_KEYS_MAX = 64  # in one file, also those that sign no more
KEY_OVERLAP_MAX_DAYS = 3_650
