"""A service that must not start says why."""

from __future__ import annotations

from redis import Redis

from tests.end_to_end.running import Service, free_port


def test_second_up_on_the_same_home_is_refused_with_advice(service: Service) -> None:
    second = service.run("up", "--port", str(free_port()))
    assert second.returncode == 1
    assert "another drmad up" in second.stderr
    assert "Traceback" not in second.stderr


def test_address_that_others_reach_is_refused(service: Service, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    refused = service.run("serve", "--host", "0.0.0.0", "--redis-url", redis_url)
    assert refused.returncode == 1
    assert "loopback" in refused.stderr
    assert "drmad keys create" in refused.stderr
