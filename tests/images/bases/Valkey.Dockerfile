FROM drmad-test/debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends redis-tools && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 1000 valkey && useradd --uid 999 --gid valkey --no-create-home --home-dir /data valkey \
 && install -d -o valkey -g valkey /data \
 && printf '#!/bin/sh\nexport REDISCLI_AUTH="${VALKEYCLI_AUTH:-}"\nexec redis-cli "$@"\n' > /usr/local/bin/valkey-cli && chmod 755 /usr/local/bin/valkey-cli
COPY --chmod=755 valkey-server /usr/local/bin/valkey-server
VOLUME /data
WORKDIR /data
CMD ["valkey-server"]
