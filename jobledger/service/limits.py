"""Every bound of the service, by name."""

# --- HTTP ---------------------------------------------------------------------------------------------------
BODY_MAX_BYTES = 2 * 1_048_576  # of a request; a spec with its envelope has less than half of it
HEADERS_MAX_BYTES = 16_384  # request line and all headers together
HEADERS_TIMEOUT_SECONDS = 5.0  # from the first byte of a request to the end of its headers
REQUEST_ID_MAX_CHARACTERS = 128
ANSWER_PART_BYTES = 262_144  # a larger answer leaves in parts of this size
ANSWERS_MAX_BYTES = 256 * 1_048_576  # of all such answers that wait for their readers
SEND_TIMEOUT_SECONDS = 30.0  # for a part to leave; then the reader is cut off
VERSIONS_SCANS_MAX = 4  # histories that are read as a whole at once, for the states of versions

# --- reading ------------------------------------------------------------------------------------------------
OWN_WRITE_WAIT_SECONDS = 1.0  # how long a read waits for what this very process has acknowledged
WAIT_DEFAULT_SECONDS = 5.0  # of `wait_for`
HISTORY_DEFAULT_LIMIT = 100
HISTORY_MAX_LIMIT = 1_000
QUERY_MAX_PARAMETERS = 100
UNKNOWN_FIELDS_TOLD = 20  # of a request's body
DIFF_MAX_BYTES = 131_072  # of each spec that is compared; comparing longer ones would hold up everybody
DIFF_MAX_LINES = 4_000  # of each, as JSON in lines: the work grows with their square

# --- idempotency --------------------------------------------------------------------------------------------
IDEMPOTENCY_KEY_MAX_CHARACTERS = 255
ANSWER_MAX_BYTES = 262_144  # of a kept answer; a larger one is not kept (see `idempotency`)
ANSWER_MAX_TRIES = 8  # to keep an answer while other replicas keep theirs under the same key

# --- who may ask, and how much at once ----------------------------------------------------------------------
TOKENS_LOOK_SECONDS = 0.005  # how long a look at the token file counts, so how late a revocation may come
TOKENS_MAX_COUNT = 1_000  # kept, also revoked ones
TOKENS_FILE_MAX_BYTES = 2 * 1_048_576
TOKEN_NAME_MAX_CHARACTERS = 128  # it becomes the actor of events, so below ACTOR_MAX_CHARACTERS
TOKEN_NAMESPACES_MAX_COUNT = 64
SECRET_FILE_MAX_BYTES = 65_536  # a password, a key, credentials
REQUESTS_MAX_IN_FLIGHT = 2_000  # of one process, without feeds; those that wait for a state are among them
REQUESTS_MAX_PER_CLIENT = 1_000  # of one token
BODY_TIMEOUT_SECONDS = 30.0  # from the end of the headers to the end of the body
BODIES_MAX_BYTES = 64 * 1_048_576  # of all requests in flight together
DISCARD_MAX_BYTES = 64 * 1_048_576  # of a refused request: taken and forgotten, so that it reads the answer
DISCARD_TIMEOUT_SECONDS = 5.0

# --- operation ----------------------------------------------------------------------------------------------
CONNECTIONS_MAX = 4_096  # of one process: requests in flight, feeds, and connections that are kept alive
CONNECTIONS_BACKLOG = 1_024  # that wait to be accepted
OPEN_FILES_WANTED = 8_192  # the soft limit is raised to this where the hard one allows it
OBSERVE_SECONDS = 1.0  # how old what /readyz and /metrics say of the log may be
OBSERVE_TIMEOUT_SECONDS = 2.0  # for the log's and the view's answers to that
BIND_TIMEOUT_SECONDS = 10.0  # from the start of the HTTP server until it accepts connections
UNSENT_GRACE_SECONDS = 2.0  # at the end, for answers that are ready to be read
COLLECTOR_THRESHOLDS = (20_000, 20, 50)  # objects, then collections, before garbage is looked for
END_TIMEOUT_SECONDS = 20.0  # after the drain: for the log, the view and the embedded server to close
METRIC_LABEL_VALUES_MAX = 100  # of one label

# --- the command line ---------------------------------------------------------------------------------------
CLIENT_CONNECT_TIMEOUT_SECONDS = 5.0
CLIENT_ANSWER_TIMEOUT_SECONDS = 40.0  # longer than an append may take with all its tries
CLIENT_PROBE_TIMEOUT_SECONDS = 2.0  # `version` and completion: the service may well not be there
CLIENT_ANSWER_MAX_BYTES = 256 * 1_048_576  # a page of jobs with the fattest specs is under it
CLIENT_PAGE_JOBS = 200  # asked for at once when all are wanted
CLIENT_PAGE_HISTORY = 1_000
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
