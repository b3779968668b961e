#!/bin/sh
# The browser of `tests/service/test_browser.py`: Debian's (or Ubuntu's) Chromium, if there is none yet. As root, as in CI.
set -eu
for name in chromium chromium-browser google-chrome chrome; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium
