"""Draw the pictures of docs/UI.md and the README from a real service (`make screenshots`).

Chromium draws every page in light and dark, and some on a small window, into docs/screenshots/ as WebP.
`python -m docs.screenshots jobs job-spec` draws some of them; `--png FOLDER` writes PNG into another folder.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode

from docs.screenshot_ledger import Ledger, running_ledger
from jobledger.service.wire import paths
from tests.support.browser import Browser

FOLDER: Final = Path(__file__).parent / "screenshots"
WIDE, NARROW = 1280, 390
HEIGHT_MIN, HEIGHT_MAX = 600, 820
QUALITY = 50

_LIVE = "document.getElementById('live')?.dataset.state === 'live'"
_WRONG_SPEC = """Name: invoice-export
Type: batch
Priorty: 10
Namespace: finance
Count: -1
Tasks:
  - Name: main
    Engine:
      Type: docker
      Params:
        Image: busybox:1.37.0
    Resources:
      Memory: 4 gigs
"""
_TYPE = """(text => {
  const area = document.getElementById('spec');
  area.value = text;
  area.dispatchEvent(new Event('input', {bubbles: true}));
})(%r)"""
_SMALLER = "document.getElementById('spec').value.replace('Count: 3', 'Count: 5').replace('1.37.1', '1.38.0')"


class Shot(NamedTuple):
    """One page in one state.

    Attributes:
        name: of the file, before `-light` and `-dark`.
        page: its path and query; `{job}`, `{half}` and the sizes of two seals are replaced.
        action: JavaScript that is run on the loaded page, as the body of an async function.
        ready: JavaScript that is true when the picture can be taken.
        is_narrow: also on a small window.
        is_signed_in: False: as a visitor.
    """

    name: str
    page: str
    action: str = ""
    ready: str = "true"
    is_narrow: bool = False
    is_signed_in: bool = True


_JOB = paths.UI_JOB.replace("{id}", "{job}")
SHOTS: Final = (
    Shot("jobs", paths.UI_JOBS, ready=_LIVE, is_narrow=True),
    Shot(
        "jobs-filtered",
        f"{paths.UI_JOBS}?state=Running&state=Failed&labels=env%3Dprod&namespace=analytics",
        ready=_LIVE,
    ),
    Shot("jobs-as-of", f"{paths.UI_JOBS}?at={{half}}", is_narrow=True),
    Shot("jobs-empty", f"{paths.UI_JOBS}?name=no-such-job"),
    Shot("jobs-keys", paths.UI_JOBS, "document.getElementById('help-button').click()"),
    Shot("changes", f"{paths.UI_CHANGES}?from={{half}}", is_narrow=True),
    Shot("stop", f"{paths.UI_STOP}?state=Queued&namespace=analytics"),
    Shot("submit", paths.UI_SUBMIT),
    Shot(
        "submit-problems",
        paths.UI_SUBMIT,
        _TYPE % _WRONG_SPEC,
        "document.querySelectorAll('.problems li').length && document.querySelector('.gutter .marked')",
        is_narrow=True,
    ),
    Shot(
        "submit-diff",
        f"{paths.UI_SUBMIT}?job={{job}}",
        (_TYPE % "@").replace("'@'", _SMALLER).replace('"@"', _SMALLER),
        "document.querySelector('#check .diff')",
    ),
    Shot("job", _JOB, ready=_LIVE, is_narrow=True),
    Shot("job-full", f"{_JOB}?timeline=full"),
    Shot("job-json", f"{_JOB}?timeline=json"),
    Shot("job-as-of", f"{_JOB}?at=r4"),
    Shot("job-spec", f"{_JOB}?tab=spec", ready=_LIVE, is_narrow=True),
    Shot("job-versions", f"{_JOB}?tab=versions&from=2&to=3", ready=_LIVE, is_narrow=True),
    Shot("job-versions-unified", f"{_JOB}?tab=versions&from=1&to=3&layout=unified", ready=_LIVE),
    Shot("job-stop", f"{_JOB}/change?do=stop"),
    Shot("job-revert", f"{_JOB}/change?do=revert&version=2"),
    Shot("job-state", f"{_JOB}/change?do=state"),
    Shot(
        "proof",
        f"{_JOB}/proof",
        ready="document.querySelector('#proof-events:not([hidden])')",
        is_narrow=True,
    ),
    Shot(
        "proof-pinned",
        f"{_JOB}/proof",
        "while (document.getElementById('proof-events').hidden) await new Promise(requestAnimationFrame);"
        "document.getElementById('proof-keys').value = document.querySelector('code.wrap').textContent;"
        "document.getElementById('proof-pin').click()",
        "document.getElementById('proof-verdict').classList.contains('good')",
    ),
    Shot("proof-file", paths.UI_PROOF),
    Shot(
        "events",
        paths.UI_EVENTS,
        ready="document.getElementById('tail-status').dataset.state === 'live'",
        is_narrow=True,
    ),
    Shot("subscriptions", paths.UI_SUBSCRIPTIONS),
    Shot("subscription", paths.UI_SUBSCRIPTION.replace("{name}", "billing"), is_narrow=True),
    Shot("subscription-reset", f"{paths.UI_SUBSCRIPTION_CHANGE.replace('{name}', 'billing')}?do=reset"),
    Shot("webhooks", paths.UI_WEBHOOKS),
    Shot("webhook", paths.UI_WEBHOOK.replace("{name}", "ops-alerts"), is_narrow=True),
    Shot("webhook-delete", f"{paths.UI_WEBHOOK_CHANGE.replace('{name}', 'ops-alerts')}?do=delete"),
    Shot("audit", paths.UI_AUDIT, is_narrow=True),
    Shot(
        "audit-consistency",
        f"{paths.UI_AUDIT}?from={{older}}&to={{newer}}",
        ready="!document.getElementById('consistency-verdict').innerText.startsWith('Not checked')",
    ),
    Shot("health", paths.UI_HEALTH, is_narrow=True),
    Shot("api", paths.DOCS, "document.querySelector('.try').closest('details').open = true"),
    Shot("guide", paths.UI_GUIDE.replace("{name}", "audit"), is_narrow=True),
    Shot("sign-in", paths.UI_SIGN_IN, is_narrow=True, is_signed_in=False),
    Shot("not-found", f"{paths.UI}/jobs/no-such-job"),
)
NOT_SHOWN: Final = {
    "uiStatic": "files",
    "uiFeed": "signals",
    "uiEventsFeed": "signals",
    "uiSpec": "a download",
    "uiProofBundle": "a download",
}
"""The pages without a picture, by their ids, with the reason."""


class _Look(NamedTuple):
    width: int
    is_dark: bool

    def suffix(self) -> str:
        return ("-narrow" if self.width == NARROW else "") + ("-dark" if self.is_dark else "-light")


_LOOKS = (_Look(WIDE, False), _Look(WIDE, True), _Look(NARROW, False), _Look(NARROW, True))


class Album(NamedTuple):
    """Where pictures go, and in which format: `.webp` or `.png`."""

    folder: Path
    suffix: str

    async def draw(self, chosen: set[str]) -> None:
        """Draw these pages, or all."""
        self.folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="jobledger-") as home:
            async with running_ledger(Path(home)) as ledger, Browser(Path(home)) as browser:
                for is_signed_in in (False, True):
                    if is_signed_in:
                        await sign_in(browser, ledger)
                    for shot in SHOTS:
                        if shot.is_signed_in is is_signed_in and (not chosen or shot.name in chosen):
                            url = ledger.service.url + shot.page.format(**places(ledger))
                            await self._draw_page(browser, url, shot)

    async def _draw_page(self, browser: Browser, url: str, shot: Shot) -> None:
        """Draw one page in every look."""
        for look in _LOOKS:
            if look.width == NARROW and not shot.is_narrow:
                continue
            await browser.look(width=look.width, height=HEIGHT_MIN, dark=look.is_dark)
            await browser.open(url)
            if shot.action:
                await browser.run(f"(async () => {{ {shot.action} }})()")
            await browser.until(f"!!({shot.ready})")
            height = await browser.run("document.documentElement.scrollHeight")
            height = max(HEIGHT_MIN, min(HEIGHT_MAX, int(height)))
            await browser.look(width=look.width, height=height, dark=look.is_dark)
            await browser.run("document.fonts.ready.then(() => new Promise(requestAnimationFrame))")
            name = f"{shot.name}{look.suffix()}{self.suffix}"
            wide = await browser.run("document.documentElement.scrollWidth")
            if wide > look.width:
                sys.stderr.write(f"{name} scrolls sideways: {wide} px\n")
            await browser.screenshot(self.folder / name, quality=QUALITY)


def places(ledger: Ledger) -> dict[str, object]:
    """What the paths of the pages refer to."""
    return {
        "job": ledger.job,
        "half": ledger.seals[-1] * 2 // 3,
        "older": ledger.seals[0],
        "newer": ledger.seals[-1],
    }


async def sign_in(browser: Browser, ledger: Ledger) -> None:
    """Sign in with the form."""
    await browser.open(f"{ledger.service.url}{paths.UI_SIGN_IN}?{urlencode({'next': paths.UI_HEALTH})}")
    await browser.run(
        f"document.getElementById('token').value = {ledger.token!r};"
        "document.querySelector('.sign-in form').submit()"
    )
    await browser.until("document.title.startsWith('Health') && document.readyState === 'complete'")


def main() -> int:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    parser.add_argument("names", nargs="*", help="pages; default: all")
    parser.add_argument("--png", type=Path, help="write PNG files into this folder")
    arguments = parser.parse_args()
    chosen = set(arguments.names)
    if unknown := chosen - {shot.name for shot in SHOTS}:
        parser.error(f"unknown pages: {', '.join(sorted(unknown))}")
    if arguments.png:
        asyncio.run(Album(arguments.png, ".png").draw(chosen))
        return 0
    if not chosen:
        for old in FOLDER.glob("*.webp"):
            old.unlink()
    asyncio.run(Album(FOLDER, ".webp").draw(chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
