#!/bin/sh
# Brings the browser that the dashboard's tests drive: Debian's chromium, where it is missing and we
# may install it. Without it those tests are skipped, except in CI.
set -eu
if [ -x /usr/bin/chromium ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "no /usr/bin/chromium: the browser tests will be skipped; apt-get install chromium brings it" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium
