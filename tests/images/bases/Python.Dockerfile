FROM drmad-test/debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends python3.11 python3.11-venv && rm -rf /var/lib/apt/lists/* \
 && python3.11 -m venv --copies /usr/local && ln -sf python3.11 /usr/local/bin/python3 && python --version && pip --version
