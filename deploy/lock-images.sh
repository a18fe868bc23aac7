#!/bin/sh
# Locks what images have beyond requirements.lock: ray[default], which nodes of a cluster need and one
# machine does not, and torch's setuptools, which pip's lists leave out.
set -eu
cd "$(dirname "$0")/.."
printf 'ray[default]\nsetuptools\ntorch\n' | .venv/bin/python -m uv pip compile --quiet --no-header \
    --no-annotate --constraint requirements.lock - > build/images.lock
# Names are compared as indexes do.
normal='{ name = tolower($1); gsub(/[-_.]+/, "-", name) }'
awk -F == "$normal"' NR == FNR { locked[name]; next } !(name in locked) && !/nvidia|^cuda|^triton/' \
    requirements.lock build/images.lock > deploy/images.lock
