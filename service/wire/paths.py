"""The paths of the API, each stated once: the operations and the client use these. Pure."""

from typing import Final
from urllib.parse import quote

JOBS: Final = "/api/v1/orchestrator/jobs"
JOBS_DIFF: Final = f"{JOBS}/diff"
JOB: Final = f"{JOBS}/{{id}}"
JOB_STATE: Final = f"{JOB}/state"
JOB_RERUN: Final = f"{JOB}/rerun"
JOB_REVERT: Final = f"{JOB}/revert"
JOB_ACCEPT: Final = f"{JOB}/accept-unreadable"
JOB_TAGS: Final = f"{JOB}/tags"
JOB_TAG: Final = f"{JOB_TAGS}/{{tag}}"
JOB_HISTORY: Final = f"{JOB}/history"
JOB_VERSIONS: Final = f"{JOB}/versions"
JOB_DIFF: Final = f"{JOB}/diff"
JOB_BLAME: Final = f"{JOB}/blame"
JOB_EXECUTIONS: Final = f"{JOB}/executions"
JOB_RESULTS: Final = f"{JOB}/results"
JOB_LOGS: Final = f"{JOB}/logs"
JOB_WAIT: Final = f"{JOB}/wait"
CHANGES: Final = "/api/v1/diff"
EVENTS: Final = "/api/v1/events"

SUBSCRIPTIONS: Final = "/api/v1/subscriptions"
SUBSCRIPTION: Final = f"{SUBSCRIPTIONS}/{{name}}"
SUBSCRIPTION_PARKED: Final = f"{SUBSCRIPTION}/parked"
SUBSCRIPTION_RETRY: Final = f"{SUBSCRIPTION}/retry"
SUBSCRIPTION_SKIP: Final = f"{SUBSCRIPTION}/skip"
SUBSCRIPTION_POSITION: Final = f"{SUBSCRIPTION}/position"

WEBHOOKS: Final = "/api/v1/webhooks"
WEBHOOK: Final = f"{WEBHOOKS}/{{name}}"
WEBHOOK_STATE: Final = f"{WEBHOOK}/state"
WEBHOOK_SECRET: Final = f"{WEBHOOK}/secret"
WEBHOOK_TEST: Final = f"{WEBHOOK}/test"

AUDIT_KEYS: Final = "/api/v1/audit/keys"
AUDIT_SEALS: Final = "/api/v1/audit/seals"
AUDIT_PROOF: Final = "/api/v1/audit/proof"
AUDIT_CONSISTENCY: Final = "/api/v1/audit/consistency"

VIEW_QUARANTINE: Final = "/api/v1/view/quarantine"
VIEW_DAMAGE: Final = "/api/v1/view/damage"
VIEW_HEAL: Final = "/api/v1/view/heal"

AUTH: Final = "/api/v1/auth"
AUTH_CLIENT_KEY: Final = f"{AUTH}/clientkey"
AGENT_AUTH_CONFIG: Final = "/api/v1/agent/authconfig"
AGENT_ALIVE: Final = "/api/v1/agent/alive"
AGENT_VERSION: Final = "/api/v1/agent/version"
VERSION: Final = "/version"
LIVEZ: Final = "/livez"
READYZ: Final = "/readyz"
METRICS: Final = "/metrics"
INDEX: Final = "/"
OPENAPI: Final = "/openapi.json"
ASYNCAPI: Final = "/asyncapi.json"
DOCS: Final = "/docs"


def expand(template: str, **values: str) -> str:
    """A path with its parameters filled in and percent-encoded, slashes included."""
    return template.format(**{name: quote(value, safe="") for name, value in values.items()})
