#!/bin/sh
# Brings the proxy behind which the tests put the service: Debian's nginx, where it is missing and we
# may install it; its own service is not started. Without it those tests are skipped, except in CI.
set -eu
if [ -x /usr/sbin/nginx ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "no /usr/sbin/nginx: the proxy's tests will be skipped; apt-get install nginx-light brings it" >&2
    exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends nginx-light
