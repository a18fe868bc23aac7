#!/bin/sh
# Starts the store for one user, `drmad`. Its password stands in no command line, which others can
# read, and on the disk only as a hash. Kubernetes runs the same file with Ray's password, for the
# cluster's own state.
set -eu

hashed() {
    printf %s "$1" | sha256sum | cut -d ' ' -f 1
}

# The password must be there and long enough, else nobody gets in.
if [ "${#DRMAD_REDIS_PASSWORD}" -lt 16 ]; then
    echo "DRMAD_REDIS_PASSWORD must have at least 16 characters: openssl rand -hex 32" >&2
    exit 1
fi
umask 077
{
    echo "user default off"
    # Its own keys and no command that could change the server or read other users.
    echo "user drmad on #$(hashed "$DRMAD_REDIS_PASSWORD") ~drmad:* &drmad:* +@all -@admin -@dangerous +info"
    if [ -n "${RAY_REDIS_PASSWORD:-}" ]; then
        # Ray deletes a key of the name DUMMY to learn whether it talks to a cluster of servers.
        echo "user ray on #$(hashed "$RAY_REDIS_PASSWORD") ~RAY* ~DUMMY &RAY* +@all -@admin -@dangerous +info +keys"
    fi
} > /tmp/users.acl
exec valkey-server --bind '* -::*' --port 6379 --aclfile /tmp/users.acl --dir /data \
    --appendonly yes --appendfsync "${DRMAD_REDIS_FSYNC:-everysec}" --save '' \
    --maxmemory "${DRMAD_REDIS_MEMORY:-2gb}" --maxmemory-policy noeviction
