"""Every bound of the write side, by name; timings of the protocol stand beside their code."""

# --- numbers ------------------------------------------------------------------------------------------------
INT_MIN = -(2**63)  # a signed 64-bit integer, the integer type of other readers of the log
INT_MAX = 2**63 - 1
UINT_MAX = 2**64 - 1

# --- what a spec may hold -----------------------------------------------------------------------------------
SPEC_FILE_MAX_BYTES = 1_048_576  # a spec as a person hands it in, before it is parsed
SPEC_MAX_BYTES = (
    786_432  # the normalised spec as JSON; with its envelope it fits NATS's default max_payload of 1 MiB
)
SPEC_MAX_DEPTH = 64  # nesting of objects and lists; deeper is an accident or an attack
SPEC_MAX_NODES = 50_000  # values after aliases are expanded (a "billion laughs" stops here)
SPEC_MAX_PROBLEMS = 100  # problems told at once; the rest are counted
NAME_MAX_CHARACTERS = 1_024
NAMESPACE_MAX_BYTES = 255  # as UTF-8; three times that when percent-encoded still fits a NATS subject
LABELS_MAX_COUNT = 256  # also for Meta
LABEL_MAX_CHARACTERS = 4_096  # a key or a value of Labels or Meta
TASKS_MAX_COUNT = 64  # only the first is kept from the API; the store itself takes several
DOMAIN_MAX_CHARACTERS = 253  # a DNS name has no more; keeps the pattern for it from scanning long texts

# --- who and why --------------------------------------------------------------------------------------------
ACTOR_MAX_CHARACTERS = 256
REASON_MAX_CHARACTERS = 4_096
MESSAGE_MAX_CHARACTERS = 16_384  # a state's message
DETAILS_MAX_COUNT = 256
DETAIL_MAX_CHARACTERS = 16_384
STATE_MAX_BYTES = SPEC_MAX_BYTES  # a state as JSON: it has the same place in an event as a spec

JOB_ID_MAX_CHARACTERS = 128  # ours have 38

# --- appending ----------------------------------------------------------------------------------------------
BATCH_MAX_EVENTS = 1_000  # the server's own limit for one atomic batch (error 10199 above)
BATCH_MAX_BYTES = 8 * 1_048_576  # staged by the server before the commit
PENDING_MAX_APPENDS = 10_000  # waiting callers; one more is told LogBusy
SINGLES_MAX_IN_FLIGHT = 1_024
ACK_TIMEOUT_SECONDS = 5.0  # for one try; then the outcome is settled, not guessed
APPEND_TIMEOUT_SECONDS = 30.0  # for all tries of one append
APPENDS_SILENCE_SECONDS = 10.0  # without an acknowledged append while one waits; then appends are refused
APPENDS_TRIAL_SECONDS = 2.0  # between two appends that are tried although the log was silent
SUSPENSION_SECONDS = 15.0  # a suspension of appends that is not renewed ends by itself
RETRY_WAIT_SECONDS = 0.05  # the first wait before a try is repeated; doubles up to the next line
RETRY_MAX_WAIT_SECONDS = 1.0
DUPLICATE_WINDOW_SECONDS = 120  # longer than APPEND_TIMEOUT_SECONDS, so a retried event is always recognised

# --- reading ------------------------------------------------------------------------------------------------
REQUEST_TIMEOUT_SECONDS = 5.0
STREAM_TIMEOUT_SECONDS = 20.0  # for finding the stream, or making it: the election of a leader takes up to 10
STREAM_TRY_TIMEOUT_SECONDS = 1.0  # for one question about it meanwhile: nobody answers
REPLICA_STALL_SECONDS = 10.0  # without progress when replicas are moved; then another leader is asked to
REPLICA_FILL_BYTES_PER_SECOND = 5 * 1_048_576  # at least: a copy of so many bytes is waited for a second more
REFILL_STALLS_MAX = 4  # such moments in one step of a rewrite, before it is given up
REFILL_STEPS_MAX = 32  # changes to one stream by a rewrite; three replicas need five
REFILL_GIVE_UP_SECONDS = 300.0  # of one step, with the time for all stalls: what changes leads nowhere
REFILL_LOST_MAX_EVENTS = 4_096  # that the leader lacks are looked for on the other replicas; more: refused
REFILL_POLL_SECONDS = 0.1  # between two looks at a stream that is moved
REFILL_PROGRESS_SECONDS = 5.0  # between two lines about one step of a rewrite
STREAM_MISSING_SECONDS = 5.0  # so long a stream that existed is looked for before it counts as missing
READ_PAGE_EVENTS = 500  # events of one job asked for at once
FIND_JOB_MAX_EVENTS = 5_000  # read to find the namespace of a nameless job's id, before it must be named
READ_PAGE_BYTES = 4 * 1_048_576
READ_LEADER_EVENTS = 100  # read one by one from the leader, where a replica left some out
READ_REPLICA_TRIES = 12  # of the leader, and then of any replica, for a page that lacks records
READ_MAX_TRIES = 10  # when a replica lags behind what the leader said
FEED_PULL_EVENTS = 2_500  # per pull request; two are outstanding
FEED_PULL_BYTES = 4 * 1_048_576
FEED_PROBES = 64  # sequences asked for at once, where records are missing
FEED_HOLE_MAX_EVENTS = 4_096  # of a hole looked at by one call, which then reports them
FEED_IDLE_HEARTBEATS = 3  # without a record, before the log is asked whether there is one
FEED_HEARTBEAT_SECONDS = 2.0  # two and a half of them without a word: the node that fed us is gone
FEED_OPEN_TIMEOUT_SECONDS = (
    2.0  # for one question while a feed is opened; times FEED_MAX_RESTARTS: an election
)
TRUNCATION_PROOF_SECONDS = 30.0  # one leader lacks an event for so long before the event counts as lost
TRUNCATION_MIN_ANSWERS = 3  # of that leader, within that time
TRUNCATION_LOOK_SECONDS = 1.0  # between two such answers, for a caller that waits for the verdict
TRUNCATION_GIVE_UP_SECONDS = 120.0  # of such a wait: no leader led for TRUNCATION_PROOF_SECONDS
LEADER_CONTACT_SECONDS = 3.0  # a leader that heard from a majority so recently is current: three heartbeats
REPLICA_LOOKS = 12  # direct gets of an event, each answered by any replica, before it counts as lost
REPLICA_LOOK_SECONDS = 1.0  # for one direct get of those
FEED_FILL_EVENTS = 500  # read one by one from the leader, where the replica that feeds us has none
FEED_GAP_TRIES = 4  # consumers in a row with the same gap, before the log itself counts as damaged there
FEED_MAX_RESTARTS = 5  # in a row without an event, before a feed says that the log can't be reached
REPLICA_PLACE_TRIES = 64  # consumers created until one is on the wanted server: 2/3 to the 64th, with three
REPLICA_READ_SECONDS = 5.0  # without a record from one server, then it does not get past the next sequence
REPLICA_STALLS_MAX = 8  # such sequences in one range, before the rest of it counts as not there
REPLICA_READ_BYTES = 8 * 1_048_576  # asked for at once

# --- test appends -------------------------------------------------------------------------------------------
HEARTBEAT_SECONDS = 2.0  # between two of one service
HEARTBEAT_TIMEOUT_SECONDS = 3.0  # for one, with reading it back
REPLICA_SILENT_SECONDS = (
    4.0  # a replica that the leader has not heard for so long is gone; it hears it each 1 s
)
HEARTBEAT_BYTES = 2_048  # of one: what still fits into the last block of a full disk proves nothing

# --- commands -----------------------------------------------------------------------------------------------
COMMAND_MAX_ATTEMPTS = 50  # races lost in a row before Contention
COMMAND_WAIT_SECONDS = 0.002  # the first wait after a lost race; doubles, with jitter, up to the next line
COMMAND_MAX_WAIT_SECONDS = 0.1
TURNS_MAX_WAITING = 1_000  # commands on one job in one process; one more is told LogBusy
CACHE_MAX_JOBS = 10_000
CACHE_MAX_BYTES = 64 * 1_048_576
MISSED_MAX_EVENTS = 100  # carried by a conflict
MISSED_MAX_BYTES = 1_048_576  # of their states and reasons, but at least one event
HISTORY_PLACES_MAX_BYTES = 16 * 1_048_576  # statuses from which later pages of histories go on

# --- keys of repeated requests ------------------------------------------------------------------------------
KEYS_MIN_AGE_SECONDS = 24 * 3_600  # what is promised
KEYS_MAX_AGE_SECONDS = 25 * 3_600  # what is kept: an hour more, for clocks and for requests that take long
KEYS_TIMEOUT_SECONDS = 10.0  # for all tries of writing one record

# --- heartbeats ---------------------------------------------------------------------------------------------
HEARTBEAT_MAX_AGE_SECONDS = 24 * 3_600  # the heartbeat of a service that is gone is forgotten

# --- private files ------------------------------------------------------------------------------------------
PRIVATE_FILE_MAX_BYTES = 2 * 1_048_576  # of a file of tokens, keys or state

# --- the embedded server ------------------------------------------------------------------------------------
CONNECTION_FILE_MAX_BYTES = 4_096  # of the file that says how to reach it
START_BYTES_PER_SECOND = 20 * 1_048_576  # read at start, on a slow disk; added to the timeout of a start
FULL_CHECK_MAX_BYTES = 16 * 1_073_741_824  # a log up to this size is read completely at each start
HOLES_MAX_ASKED = 50_000  # missing sequences that the server is asked to list; more are only counted
FIRST_START_BYTES = 4 * 1_048_576  # free on the disk of a log before it is made
RESTART_SPARE_BYTES = 16 * 1_048_576  # free after the generation is kept; less: the disk counts as full
HEALTH_SECONDS = 1.0  # between two probes of the server
HEALTH_TIMEOUT_SECONDS = 4.0  # for one probe
HEALTH_FAILURES_MAX = 4  # in a row; then the server hangs and is restarted: after 20 s at most
ORPHAN_STOP_SECONDS = 5.0  # for a server without an owner to end after SIGTERM
ORPHAN_KILL_SECONDS = 5.0  # and after SIGKILL
NATS_LOG_MAX_BYTES = 8 * 1_048_576  # of nats.log, before nats-server begins another one
NATS_LOG_MAX_FILES = 4  # of them, with the current one

# --- tags ---------------------------------------------------------------------------------------------------
# Part of the fold's meaning: whoever changes one raises PROJECTION_VERSION.
TAGS_MAX_COUNT = 64  # of one job
TAG_MAX_CHARACTERS = 64

# --- quarantine --------------------------------------------------------------------------------------------
# Part of the fold's meaning, as well.
QUARANTINE_MAX_EVENTS = 64  # that freeze one job and can be accepted one by one
QUARANTINE_REASON_CHARACTERS = 400  # of one of them

# --- durable consumers --------------------------------------------------------------------------------------
PIN_SECONDS = 5.0  # after so long without a word from who holds a consumer, the next one gets it
PIN_MARGIN_SECONDS = 0.5  # the holder takes its lease to end so much sooner
HOLD_CHECK_SECONDS = 1.25  # between two proofs that the pin is still ours: three fit into PIN_SECONDS
HOLD_CHECK_TIMEOUT_SECONDS = 2.0  # for one question of such a proof
PIN_WAIT_SECONDS = 10.0  # for one request that waits for the pin: a process that is asleep counts so long
LET_GO_WAIT_SECONDS = 2.0  # before a consumer that was let go is waited for again: others come first
PASS_ON_SECONDS = 10.0  # before one who has its share passes a consumer on again: nobody may want it
CONSUMER_PULL_EVENTS = 1_000  # the most per request; two are outstanding
CONSUMER_PULL_BYTES = 2 * 1_048_576
CONSUMER_MAX_WAITING = 4_096  # requests that wait at the server, of all processes together
CONSUMER_MAX_UNACKNOWLEDGED = 20_000  # more than two requests' worth and what is coalesced, by far
CONSUMERS_MAX = 4_096  # listed at once
PLAIN_ACK_WAIT_SECONDS = 10.0  # before an event of a plain consumer is delivered again

# --- records of subscriptions -------------------------------------------------------------------------------
RECORD_MAX_BYTES = 64 * 1_024  # of one record
RECORD_REMOVED_SECONDS = 24 * 3_600  # that a record was removed can be seen so long
