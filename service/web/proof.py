"""The proof of a job's events, which the browser verifies by itself: `static/bundle_check.js`.

The page has the steps and the commands; the browser gets the bundle of the API and fills in the results. It
does the same with a bundle that is dropped on the page, without the service.
"""

from typing import Any, Final, NamedTuple

from jobledger.service.api.audit import UNCOVERED_HEADER
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.web.calls import call, pass_on
from jobledger.service.web.site import SECURITY_HEADERS, page, render
from jobledger.service.wire import paths


class Step(NamedTuple):
    """A check; `why` is why the browser does not do it, if it never does."""

    name: str
    title: str
    why: str = ""


STEPS: Final = (
    Step("format", "The file is a proof bundle"),
    Step("seal", "The seal has a valid signature (Ed25519)"),
    Step("origin", "Bundle and seal are of the same log"),
    Step("job", "Every event is of this one job"),
    Step("order", "The sequences of the events increase, up to the size of the seal"),
    Step("leaf", "Each event has its hash (SHA-256)"),
    Step("inclusion", "The path of each hash leads to the sealed root"),
    Step("links", "No event was left out between two others"),
    Step(
        "state",
        "The events make a valid history",
        "the browser does not replay the events; jobledger audit check does",
    ),
    Step("newer", "The seal covers the newest event", "only the service knows, if it can be reached"),
    Step("earlier", "Earlier seals are the beginning of this one", "compare two seals on the page Audit"),
)


@page("GET", paths.UI_JOB_PROOF, "uiProof")
async def show_proof(request: Request[Any]) -> Response:
    """The page that verifies the events of a job."""
    query = {"namespace": request.query.text("namespace")}
    job = (await call(request, "getJob", query, id=request.values["id"]))["Job"]
    bundle_url = paths.expand(paths.UI_JOB_BUNDLE, id=job["ID"])
    return await _page(request, job=job, bundle_url=bundle_url)


@page("GET", paths.UI_PROOF, "uiProofFile")
async def show_file_check(request: Request[Any]) -> Response:
    """The page that verifies a bundle from a file."""
    return await _page(request, job=None, bundle_url="")


@page("GET", paths.UI_JOB_BUNDLE, "uiProofBundle")
async def get_bundle(request: Request[Any]) -> Response:
    """The bundle, as the API has it: the API accepts no session."""
    found: Response = await pass_on(request, "proof", {"job": request.values["id"]})
    found.headers += SECURITY_HEADERS
    return found


async def _page(request: Request[Any], *, job: dict[str, Any] | None, bundle_url: str) -> Response:
    keys = await call(request, "auditKeys")
    return render(
        request,
        "proof.html",
        job=job,
        bundle_url=bundle_url,
        steps=STEPS,
        origin=keys["Origin"],
        keys=[each["Key"] for each in keys["Items"] if each["Trusted"]],
        uncovered_header=UNCOVERED_HEADER,
    )
