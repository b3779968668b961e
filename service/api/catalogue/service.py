"""The routes that are not about one job: the live feed, health, and the documents themselves."""

from typing import Final

from jobledger.service.api import schemas
from jobledger.service.api.catalogue.parts import STATES, TEXT, TEXTS, WAIT, Operation, Parameter
from jobledger.store.model.events import EVENT_TYPES, event_type

_FEED: Final = """\
Server-Sent Events, for `EventSource` and everything else that reads lines. Each has `id:` (its cursor),
`event:` (its type) and `data:` (the CloudEvent, with `name`, `sequence`, `revision`, `version`,
`streamtime`, and `matches` if labels are asked for). A comment every 15 s keeps the connection alive, and
one says that a feed has caught up. Come back with the last `id` in `Last-Event-ID`, on any replica, and no
event is lost or sent twice. Before the service ends a feed it sends `event: close` with the reason and the
cursor."""
_TYPES: Final = {"type": "string", "examples": [event_type(kind) for kind in EVENT_TYPES]}
# What the gate can answer before any route: a wrong header, a foreign Host or Origin, too much at once.
_HEALTH: Final = (400, 403)
_OPEN: Final = (*_HEALTH, 429, 503)

FEED: Final = Operation(
    "GET",
    "/api/v1/events",
    "events",
    "Live feed",
    "Follow events as they happen",
    _FEED,
    (
        Parameter("namespace", TEXT, "only events of its jobs; absent or `*`: of all that you may see"),
        Parameter("job", TEXT, "only events of this job: its name in the namespace, id, or unique short id"),
        Parameter(
            "type",
            {"type": "array", "items": _TYPES},
            "any of these types, also as `created`, `updated`, `state`, `tagged`, `accepted`; repeatable or"
            " with commas",
        ),
        Parameter(
            "state",
            STATES,
            "only events that bring the job into one of these states; a tag brings it nowhere",
        ),
        Parameter(
            "labels",
            TEXTS,
            "a selector that the job meets before or after the event; repeatable",
        ),
        Parameter("after", TEXT, "a cursor or a sequence; `0`: from the beginning; absent: from now"),
        Parameter(
            "Last-Event-ID", TEXT, "as `after`, and wins over it; browsers send it themselves", "header"
        ),
        *WAIT,
    ),
    answer="text/event-stream",
    errors=(400, 401, 403, 404, 409, 410, 429, 503, 504),
)

SERVICE: Final = (
    Operation(
        "GET",
        "/api/v1/auth",
        "loginMethods",
        "Service",
        "How to log in, as Bacalhau's clients ask before their first request",
        "Without tokens, a method that every client has and that is always granted; with tokens, none: send"
        " one of the service's tokens as an API key.",
        answer=schemas.LoginMethods,
        errors=_OPEN,
    ),
    Operation(
        "POST",
        "/api/v1/auth/clientkey",
        "logIn",
        "Service",
        "Log in to a service without tokens, as Bacalhau's clients do",
        "The token in the answer means nothing; the service does not look at it.",
        answer=schemas.LogIn,
        errors=(400, 401, 403, 429, 503),
    ),
    Operation(
        "GET",
        "/api/v1/agent/authconfig",
        "loginConfiguration",
        "Service",
        "The single sign-on, as Bacalhau's clients ask: there is none",
        answer=schemas.LoginConfiguration,
        errors=_OPEN,
    ),
    Operation(
        "GET",
        "/api/v1/agent/alive",
        "agentAlive",
        "Service",
        "Whether the process answers, as Bacalhau's clients ask it",
        answer=schemas.Alive,
        errors=_HEALTH,
    ),
    *(
        Operation(
            "GET",
            path,
            name,
            "Service",
            "Which release this is, as Bacalhau's clients ask it",
            answer=schemas.AgentVersion,
            errors=_OPEN,
        )
        for path, name in (("/api/v1/agent/version", "agentVersion"), ("/version", "version"))
    ),
    Operation(
        "GET",
        "/livez",
        "livez",
        "Service",
        "Whether the process answers",
        answer="text/plain",
        errors=_HEALTH,
    ),
    Operation(
        "GET",
        "/readyz",
        "readyz",
        "Service",
        "Whether the service can serve: its view caught up once and is not far behind",
        parameters=(Parameter("verbose", TEXT, "one line for each check, also without a value"),),
        answer="text/plain",
        errors=(400, 401, 403, 503),
    ),
    Operation(
        "GET",
        "/metrics",
        "metrics",
        "Service",
        "Metrics in Prometheus' text format",
        answer="text/plain",
        errors=(400, 401, 403),
    ),
    Operation("GET", "/", "index", "Service", "Where to go from here", errors=_OPEN),
    Operation(
        "GET", "/openapi.json", "openapi", "Service", "This API as an OpenAPI 3.1 document", errors=_OPEN
    ),
    Operation(
        "GET", "/asyncapi.json", "asyncapi", "Service", "The events as an AsyncAPI 3.0 document", errors=_OPEN
    ),
    Operation(
        "GET", "/docs", "docs", "Service", "This API as a page to read", answer="text/html", errors=_OPEN
    ),
)
