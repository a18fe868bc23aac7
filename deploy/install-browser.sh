#!/bin/sh
# Brings the browser that the dashboard's tests drive: Debian's chromium without a window, where it is
# missing and we may install it. Where it cannot be had the tests take the whole chromium, which needs
# twice the time; without either they are skipped, except in CI.
set -eu
if [ -x /usr/bin/chromium-headless-shell ]; then
    exit 0
fi
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || true
    for package in chromium-headless-shell chromium; do
        if apt-get install -y -qq --no-install-recommends "$package"; then
            exit 0
        fi
    done
fi
if [ ! -x /usr/bin/chromium ]; then
    echo "no chromium: the browser tests will be skipped; apt-get install chromium-headless-shell brings it" >&2
fi
