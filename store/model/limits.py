"""Every limit of the write side, by name. Timings of the NATS protocol are next to their code."""

# --- numbers ------------------------------------------------------------------------------------------------
INT_MIN = -(2**63)  # a signed 64-bit integer, the integer type of other readers of the log
INT_MAX = 2**63 - 1
UINT_MAX = 2**64 - 1

# --- specs --------------------------------------------------------------------------------------------------
SPEC_FILE_MAX_BYTES = 1_048_576  # the text of a spec, before it is parsed
SPEC_MAX_BYTES = 768 * 1_024  # the normalized JSON; with its envelope it fits NATS's max_payload of 1 MiB
SPEC_MAX_DEPTH = 64  # nesting of objects and lists
SPEC_MAX_NODES = 50_000  # values after aliases are expanded (stops a "billion laughs")
SPEC_MAX_PROBLEMS = 100  # reported at once; the rest are counted
NAME_MAX_CHARACTERS = 1_024
NAMESPACE_MAX_BYTES = 255  # as UTF-8; percent-encoded, three times that still fits a NATS subject
LABELS_MAX_COUNT = 256  # also for Meta
LABEL_MAX_CHARACTERS = 4_096  # a key or a value of Labels or Meta
TASKS_MAX_COUNT = 64  # the API keeps only the first; the store accepts several
DOMAIN_MAX_CHARACTERS = 253  # the maximum of DNS; keeps the pattern for it from scanning long texts

# --- commands: actor, reason, state -------------------------------------------------------------------------
ACTOR_MAX_CHARACTERS = 256
REASON_MAX_CHARACTERS = 4_096
MESSAGE_MAX_CHARACTERS = 16_384  # of a state
DETAILS_MAX_COUNT = 256
DETAIL_MAX_CHARACTERS = 16_384
STATE_MAX_BYTES = SPEC_MAX_BYTES  # as JSON: in an event it takes the place of a spec

JOB_ID_MAX_CHARACTERS = 128  # ours have 38

# --- appending ----------------------------------------------------------------------------------------------
BATCH_MAX_EVENTS = 1_000  # the server's limit for one atomic batch (error 10199 above)
BATCH_MAX_BYTES = 8 * 1_048_576  # staged by the server before the commit
PENDING_MAX_APPENDS = 10_000  # waiting callers; the next one gets LogBusy
SINGLES_MAX_IN_FLIGHT = 1_024
ACK_TIMEOUT_SECONDS = 5.0  # of one attempt; then the outcome is reconciled
APPEND_TIMEOUT_SECONDS = 30.0  # of all attempts of one append
APPENDS_SILENCE_SECONDS = 10.0  # without an acknowledgement while an append waits; then appends are refused
APPENDS_TRIAL_SECONDS = 2.0  # between two trial appends while appends are refused
SUSPENSION_SECONDS = 15.0  # a suspension of appends ends unless it is renewed
RETRY_WAIT_SECONDS = 0.05  # before the first retry; doubles up to the next line
RETRY_MAX_WAIT_SECONDS = 1.0
DUPLICATE_WINDOW_SECONDS = 120  # longer than APPEND_TIMEOUT_SECONDS, so a repeated event is always recognized

# --- reading ------------------------------------------------------------------------------------------------
REQUEST_TIMEOUT_SECONDS = 5.0
STREAM_TIMEOUT_SECONDS = 20.0  # to find or create the stream: the election of a leader takes up to 10
STREAM_TRY_TIMEOUT_SECONDS = 1.0  # of one request within that time
REPLICA_STALL_SECONDS = 10.0  # without progress while replicas are moved; then the leader is changed
REPLICA_FILL_BYTES_PER_SECOND = 5 * 1_048_576  # minimum rate; extends the wait for a replica
REFILL_STALLS_MAX = 4  # such stalls in one step of a rewrite, before it is given up
REFILL_STEPS_MAX = 32  # changes to one stream by a rewrite; three replicas need five
REFILL_GIVE_UP_SECONDS = 300.0  # of one step, in addition to the time of all stalls
REFILL_LOST_MAX_EVENTS = 4_096  # missing on the leader and searched on the other replicas; more are refused
REFILL_POLL_SECONDS = 0.1  # between two checks of a stream that is moved
REFILL_PROGRESS_SECONDS = 5.0  # between two progress lines of a rewrite
STREAM_MISSING_SECONDS = 5.0  # a stream is searched for this long before it counts as missing
READ_PAGE_EVENTS = 500  # of one job per request
FIND_JOB_MAX_EVENTS = 5_000  # read to find the namespace of a nameless job's id, before it must be given
READ_PAGE_BYTES = 4 * 1_048_576
READ_LEADER_EVENTS = 100  # read one by one from the leader, where a replica lacks some
READ_REPLICA_TRIES = 12  # of the leader, and then of any replica, for a page that lacks records
READ_MAX_TRIES = 10  # while a replica lags behind the leader
LOG_READER_PULL_EVENTS = 2_500  # per pull request; two are outstanding
LOG_READER_PULL_BYTES = 4 * 1_048_576
HOLE_PROBES = 64  # sequences requested at once where records are missing
LOG_READER_HOLE_MAX_EVENTS = 4_096  # of a hole that one call examines and reports
LOG_READER_IDLE_HEARTBEATS = 3  # without a record, before the log is asked for its last sequence
LOG_READER_HEARTBEAT_SECONDS = 2.0  # two and a half of them without a message: the node counts as down
LOG_READER_OPEN_TIMEOUT_SECONDS = 2.0  # of one request; all restarts together outlast an election
TRUNCATION_PROOF_SECONDS = 30.0  # an event counts as lost when one leader lacks it for this long
TRUNCATION_MIN_ANSWERS = 3  # answers of one leader within TRUNCATION_PROOF_SECONDS
TRUNCATION_POLL_SECONDS = 1.0  # between two requests of a caller that waits for the verdict
TRUNCATION_GIVE_UP_SECONDS = 120.0  # of the wait for a verdict: no leader led for long enough
LEADER_CONTACT_SECONDS = 3.0  # a leader with a majority's contact this recent is current: three heartbeats
REPLICA_GETS = 12  # direct gets of an event, each answered by any replica, before it counts as lost
REPLICA_GET_TIMEOUT_SECONDS = 1.0  # of one direct get
LOG_READER_FILL_EVENTS = 500  # read one by one from the leader, where the reader's replica lacks them
LOG_READER_GAP_TRIES = 4  # consumers in a row with the same gap, before the log counts as damaged there
LOG_READER_MAX_RESTARTS = 5  # in a row without an event, before the log counts as unreachable
REPLICA_PLACE_TRIES = 64  # consumers created until one is on the desired server: with three, (2/3)^64 fail
REPLICA_READ_SECONDS = 5.0  # without a record from one server, before its next sequence counts as missing
REPLICA_STALLS_MAX = 8  # such sequences in one range, before the rest of it counts as missing
REPLICA_READ_BYTES = 8 * 1_048_576  # per request

# --- test appends -------------------------------------------------------------------------------------------
HEARTBEAT_SECONDS = 2.0  # between two test appends of one service
HEARTBEAT_TIMEOUT_SECONDS = 3.0  # of one test append, including reading it back
REPLICA_SILENT_SECONDS = 4.0  # a replica that is silent for this long is down; it sends once a second
HEARTBEAT_BYTES = 2_048  # more than fits into the last block of a full disk
HEARTBEAT_MAX_AGE_SECONDS = 24 * 3_600  # the heartbeat of a service that no longer runs is removed

# --- commands -----------------------------------------------------------------------------------------------
COMMAND_MAX_ATTEMPTS = 50  # races lost in a row before Contention
COMMAND_WAIT_SECONDS = 0.002  # after the first lost race; doubles, with jitter, up to the next line
COMMAND_MAX_WAIT_SECONDS = 0.1
TURNS_MAX_WAITING = 1_000  # commands on one job in one process; the next one gets LogBusy
CACHE_MAX_JOBS = 10_000
CACHE_MAX_BYTES = 64 * 1_048_576
MISSED_MAX_EVENTS = 100  # listed in a conflict
MISSED_MAX_BYTES = 1_048_576  # of the states and reasons of these events; at least one is included
HISTORY_POSITIONS_MAX_BYTES = 16 * 1_048_576  # cached statuses from which later pages of histories continue

# --- keys of repeated requests ------------------------------------------------------------------------------
KEYS_MIN_AGE_SECONDS = 24 * 3_600  # how long a key is guaranteed to be recognized
KEYS_MAX_AGE_SECONDS = 25 * 3_600  # one hour more, for clocks and for requests that take long
KEYS_TIMEOUT_SECONDS = 10.0  # of all attempts to write one record

# --- private files ------------------------------------------------------------------------------------------
PRIVATE_FILE_MAX_BYTES = 2 * 1_048_576  # a file of tokens, keys or state

# --- the embedded server ------------------------------------------------------------------------------------
CONNECTION_FILE_MAX_BYTES = 4_096
START_BYTES_PER_SECOND = 20 * 1_048_576  # read at start from a slow disk; extends the timeout of a start
FULL_CHECK_MAX_BYTES = 16 * 1_073_741_824  # a log up to this size is read completely at each start
HOLES_MAX_LISTED = 50_000  # missing sequences that the server lists; more are only counted
FIRST_START_BYTES = 4 * 1_048_576  # free on the disk of a log before it is created
RESTART_SPARE_BYTES = 16 * 1_048_576  # free after the copy for a restart; with less the disk counts as full
STAGING_MIN_FREE_BYTES = 32 * 1_048_576  # free on a tmpfs before batches are staged there
STAGING_STOP_FREE_BYTES = 16 * 1_048_576  # with less they are staged on disk; a batch has up to 10 MiB
HEALTH_SECONDS = 1.0  # between two probes of the server
HEALTH_TIMEOUT_SECONDS = 4.0  # of one probe
HEALTH_FAILURES_MAX = 4  # in a row; then the server hangs and is restarted: after 20 s at most
ORPHAN_STOP_SECONDS = 5.0  # for a server without an owner to exit after SIGTERM
ORPHAN_KILL_SECONDS = 5.0  # the same, after SIGKILL
NATS_LOG_MAX_BYTES = 8 * 1_048_576  # of nats.log, before nats-server rotates it
NATS_LOG_MAX_FILES = 4  # with the current one

# --- tags ---------------------------------------------------------------------------------------------------
# Part of the fold's meaning: a change needs a new PROJECTION_VERSION.
TAGS_MAX_COUNT = 64  # of one job
TAG_MAX_CHARACTERS = 64

# --- quarantine ---------------------------------------------------------------------------------------------
# Part of the fold's meaning: a change needs a new PROJECTION_VERSION.
QUARANTINE_MAX_EVENTS = 64  # events that freeze one job and can be accepted one by one
QUARANTINE_REASON_CHARACTERS = 400  # of the reason of one event

# --- durable consumers --------------------------------------------------------------------------------------
PIN_SECONDS = 5.0  # without a message from the holder of a consumer, the next client gets it
PIN_MARGIN_SECONDS = 0.5  # the holder treats its lease as expired this much earlier
HOLD_CHECK_SECONDS = 1.25  # between two checks that the pin is still ours: three fit into PIN_SECONDS
HOLD_CHECK_TIMEOUT_SECONDS = 2.0  # of one request of such a check
PIN_WAIT_SECONDS = 10.0  # of one request for the pin: a sleeping process counts as waiting for this long
RELEASE_WAIT_SECONDS = 2.0  # before a released consumer is requested again, so that others get it
YIELD_PIN_SECONDS = 10.0  # before a client at its quota yields a consumer again
CONSUMER_PULL_EVENTS = 1_000  # per pull request; two are outstanding
CONSUMER_PULL_BYTES = 2 * 1_048_576
CONSUMER_MAX_WAITING = 4_096  # requests waiting at the server, of all processes together
CONSUMER_MAX_UNACKNOWLEDGED = 20_000  # far more than two requests and the coalesced events
CONSUMERS_MAX = 4_096  # listed at once
PLAIN_ACK_WAIT_SECONDS = 10.0  # before an event of a plain consumer is redelivered

# --- records of subscriptions -------------------------------------------------------------------------------
RECORD_MAX_BYTES = 64 * 1_024  # of one record
RECORD_REMOVED_SECONDS = 24 * 3_600  # the removal of a record is visible for this long
