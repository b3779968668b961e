"""The routes of webhooks and of durable subscriptions."""

from typing import Final

from jobledger.service.api import subscription_schemas as schemas
from jobledger.service.api.catalogue.parts import TEXT, Operation, Parameter, limit
from jobledger.service.limits import PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT

WEBHOOKS_GROUP: Final = "Webhooks"
GROUP: Final = "Subscriptions"
_WEBHOOKS: Final = "/api/v1/webhooks"
_SUBSCRIPTIONS: Final = "/api/v1/subscriptions"
_WEBHOOK: Final = (Parameter("name", TEXT, "of the webhook", "path", needed=True),)
_SUBSCRIPTION: Final = (Parameter("name", TEXT, "of the subscription", "path", needed=True),)
_READ: Final = (400, 401, 403, 429, 503)
_READ_ONE: Final = (400, 401, 403, 404, 429, 503)
_WRITE: Final = (400, 401, 403, 409, 413, 415, 429, 503)
_WRITE_ONE: Final = (400, 401, 403, 404, 409, 413, 415, 429, 503)

WEBHOOKS: Final = (
    Operation(
        "GET",
        _WEBHOOKS,
        "listWebhooks",
        WEBHOOKS_GROUP,
        "List the webhooks",
        "Needs a token for all namespaces. Secrets are masked; who is no admin sees no paths of URLs.",
        answer=schemas.WebhookList,
        errors=_READ,
    ),
    Operation(
        "POST",
        _WEBHOOKS,
        "addWebhook",
        WEBHOOKS_GROUP,
        "Add a webhook: events are POSTed to a URL as CloudEvents, signed as Standard Webhooks says",
        "Needs an admin's token. A URL that leads to anything but the public Internet is refused, unless the"
        " setting `webhook_allow` names it. The secret that is made is in this answer and nowhere else.",
        body=schemas.WebhookRequest,
        answer=schemas.WebhookAnswer,
        errors=_WRITE,
        example={"URL": "https://hooks.example.com/jobs", "Types": ["state"], "States": ["Failed"]},
    ),
    Operation(
        "GET",
        f"{_WEBHOOKS}/{{name}}",
        "getWebhook",
        WEBHOOKS_GROUP,
        "Get a webhook",
        "Needs a token for all namespaces.",
        _WEBHOOK,
        answer=schemas.WebhookAnswer,
        errors=_READ_ONE,
    ),
    Operation(
        "DELETE",
        f"{_WEBHOOKS}/{{name}}",
        "deleteWebhook",
        WEBHOOKS_GROUP,
        "Delete a webhook, its place in the log, and its parked jobs",
        "Needs an admin's token.",
        _WEBHOOK,
        answer=schemas.WebhookAnswer,
        errors=_WRITE_ONE,
    ),
    Operation(
        "PUT",
        f"{_WEBHOOKS}/{{name}}/state",
        "setWebhookState",
        WEBHOOKS_GROUP,
        "Pause a webhook, or let it send on from where it was",
        "Needs an admin's token. One that is disabled, because its target answered 410, sends again, too.",
        _WEBHOOK,
        body=schemas.WebhookStateRequest,
        answer=schemas.WebhookAnswer,
        errors=_WRITE_ONE,
        example={"State": "paused"},
    ),
    Operation(
        "PUT",
        f"{_WEBHOOKS}/{{name}}/secret",
        "rotateWebhookSecret",
        WEBHOOKS_GROUP,
        "Sign with a new secret, and for a while with the present ones, too",
        "Needs an admin's token.",
        _WEBHOOK,
        body=schemas.WebhookSecretRequest,
        answer=schemas.WebhookAnswer,
        errors=_WRITE_ONE,
        example={"OverlapSeconds": 86400},
    ),
    Operation(
        "POST",
        f"{_WEBHOOKS}/{{name}}/test",
        "testWebhook",
        WEBHOOKS_GROUP,
        "Send a test event now, and tell what became of it",
        "Needs an admin's token. The event's type is `jobledger.webhook.test.v1`; it is in no log.",
        _WEBHOOK,
        answer=schemas.WebhookTest,
        errors=_WRITE_ONE,
    ),
)

SUBSCRIPTIONS: Final = (
    Operation(
        "GET",
        _SUBSCRIPTIONS,
        "listSubscriptions",
        GROUP,
        "List the durable subscriptions, with how far each is",
        "Needs a token for all namespaces.",
        answer=schemas.SubscriptionList,
        errors=_READ,
    ),
    Operation(
        "POST",
        _SUBSCRIPTIONS,
        "createSubscription",
        GROUP,
        "Create a durable subscription, for a program that may not create it itself",
        "Needs an admin's token. Makes its definition and all its consumers; the same again changes nothing."
        " The program opens it with the same name, filter, start and sharing.",
        body=schemas.SubscriptionRequest,
        answer=schemas.SubscriptionAnswer,
        errors=_WRITE,
        example={"Name": "billing", "Types": ["state"], "States": ["Completed", "Failed"]},
    ),
    Operation(
        "GET",
        f"{_SUBSCRIPTIONS}/{{name}}",
        "getSubscription",
        GROUP,
        "Get a durable subscription",
        "Needs a token for all namespaces.",
        _SUBSCRIPTION,
        answer=schemas.SubscriptionAnswer,
        errors=_READ_ONE,
    ),
    Operation(
        "GET",
        f"{_SUBSCRIPTIONS}/{{name}}/parked",
        "listParkedJobs",
        GROUP,
        "List the jobs that a subscription has set aside, because the handling of one of their events failed",
        "Needs a token for all namespaces.",
        (*_SUBSCRIPTION, limit(PARKED_DEFAULT_LIMIT, PARKED_MAX_LIMIT, "jobs")),
        answer=schemas.ParkedList,
        errors=_READ_ONE,
    ),
    Operation(
        "POST",
        f"{_SUBSCRIPTIONS}/{{name}}/retry",
        "retryParkedJobs",
        GROUP,
        "Handle a job's failed event again, now; then its later ones",
        "Needs an admin's token.",
        _SUBSCRIPTION,
        body=schemas.RetryRequest,
        answer=schemas.Changed,
        errors=_WRITE_ONE,
        example={"JobID": "j-cfc229d6-1c37-5cf0-a71d-0a1260047606"},
    ),
    Operation(
        "POST",
        f"{_SUBSCRIPTIONS}/{{name}}/skip",
        "skipParkedEvent",
        GROUP,
        "Give up a job's failed event, and go on with its later ones",
        "Needs an admin's token.",
        _SUBSCRIPTION,
        body=schemas.SkipRequest,
        answer=schemas.Changed,
        errors=_WRITE_ONE,
        example={"JobID": "j-cfc229d6-1c37-5cf0-a71d-0a1260047606"},
    ),
    Operation(
        "PUT",
        f"{_SUBSCRIPTIONS}/{{name}}/position",
        "resetSubscription",
        GROUP,
        "Make a subscription begin anew behind a point of the log",
        "Needs an admin's token. All events behind that point are handled, again if they were before, and"
        " none up to it. Jobs that are set aside begin anew there, too.",
        _SUBSCRIPTION,
        body=schemas.ResetRequest,
        answer=schemas.SubscriptionAnswer,
        errors=_WRITE_ONE,
        example={"After": "0"},
    ),
    Operation(
        "DELETE",
        f"{_SUBSCRIPTIONS}/{{name}}",
        "deleteSubscription",
        GROUP,
        "Delete a durable subscription: its place, and the jobs that it has set aside",
        "Needs an admin's token. That of a webhook is refused: delete the webhook.",
        _SUBSCRIPTION,
        answer=schemas.Changed,
        errors=_WRITE_ONE,
    ),
)
