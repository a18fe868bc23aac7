#!/bin/sh
# Installs the locked packages and this project into .venv: by uv, which checks the hash of each file,
# or by pip where uv cannot be had.
set -eu
python=.venv/bin/python
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
# A setting of pip, which uv does not read: the last of its files and variables wins.
configured() { pip config list 2>/dev/null | sed -n "s/^[a-z:]*\.$1='\(.*\)'\$/\1/p" | tail -n 1; }

count=$(grep -c == requirements.lock)
if pip install --quiet "$(grep '^uv==' requirements.lock)"; then
    echo "Installing $count packages into .venv with uv (requirements.lock; downloads are cached) ..."
    UV_FIND_LINKS=${UV_FIND_LINKS:-$(configured find-links | tr ' ' ',')}
    UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$(configured index-url)}
    SSL_CERT_FILE=${SSL_CERT_FILE:-$(configured cert)}
    for name in UV_FIND_LINKS UV_DEFAULT_INDEX SSL_CERT_FILE; do
        eval "value=\$$name"
        if [ -n "$value" ]; then export "${name?}"; else unset "$name"; fi
    done
    # Compiled once: every process would do it again where PYTHONDONTWRITEBYTECODE is set.
    uv() { "$python" -m uv pip install --quiet --compile-bytecode --python "$python" "$@"; }
    if uv --requirement requirements-hashes.lock && uv --no-deps --editable .; then
        exit 0
    fi
    echo "uv failed; pip installs in its place" >&2
fi
echo "Installing $count packages into .venv with pip (requirements.lock) ..."
pip install --quiet --requirement requirements.lock
pip install --quiet --no-deps --editable .
