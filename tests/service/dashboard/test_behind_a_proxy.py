"""Below a path behind nginx with TLS and gzip: pages, links, scripts, streams, uploads, the SDK."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, expect

from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from tests.browser import Server, Trouble
from tests.client import samples
from tests.proxy import Proxy, proxy
from tests.service.dashboard.page_checks import settled

KEY = "k" * 40
ROOT = "/tuning"
STATIC = Path(__file__).parents[3] / "service/drmad_service/dashboard/static"


@pytest.fixture(scope="module")
def mounted(
    redis_url: str, jobs: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("data")
    # No worker runs that would write the data of a job, to which its page links.
    server = Server(redis_url, KEY, data_dir=data, root_path=f"{ROOT}/", check_wait_s=0.1)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=[False, True], ids=["kept", "stripped"])
def nginx(
    request: pytest.FixtureRequest, mounted: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nginx")
    with proxy(folder, mounted.port, strips=request.param) as running:
        yield running


@pytest.fixture
def visitor(nginx: Proxy) -> Iterator[httpx.Client]:
    """A browser's requests, signed in."""
    with httpx.Client(verify=nginx.trusting, timeout=60.0) as client:
        answer = client.post(f"{nginx.url}/sign-in", json={"key": KEY})
        assert answer.status_code == 204, answer.text
        cookie = answer.headers["set-cookie"]
        assert f"Path={ROOT};" in cookie
        assert "Secure" in cookie
        yield client


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = "-" in tag  # a custom element of ours, whose script puts the root path before it
        for name, value in attrs:
            if name in ("href", "action", "src") and value and not value.startswith(("#", "data:")):
                self.found.add(ROOT + value if own and name == "src" else value)


def test_every_link_of_every_page_leads_below_the_path(
    visitor: httpx.Client, nginx: Proxy, jobs: dict[str, str]
) -> None:
    pages = ["/", "/new", "/cluster", "/docs", f"/compare?job={jobs['clean digits']}"]
    pages += [f"/jobs/{job_id}" for job_id in jobs.values()]
    pages += [f"/jobs/{jobs['digits, l2 per unit']}/fork", "/?q=nothing", "/sign-in"]
    links: set[str] = set()
    for path in pages:
        answer = visitor.get(nginx.url + path)
        assert answer.status_code == 200, path
        assert answer.headers["content-encoding"] == "gzip"
        parser = _Links()
        parser.feed(answer.text)
        links |= parser.found
    assert len(links) > 30
    outside = {each for each in links if not each.startswith(f"{ROOT}/")}
    assert all(urlsplit(each).netloc for each in outside), (
        "an address of the service lacks the path"
    )
    for link in sorted(links - outside):
        answer = visitor.get(urljoin(nginx.url, link))
        kept = answer.status_code == 200 or "/download/" in link or "/v1/" in link
        assert kept, (link, answer.status_code)
        asked_a_worker = link.endswith("/data") and answer.json()["code"] == "no_worker"
        assert answer.status_code < 500 or asked_a_worker, link


def test_redirects_stay_below_the_path(nginx: Proxy, jobs: dict[str, str]) -> None:
    with httpx.Client(verify=nginx.trusting) as stranger:
        asked = f"{ROOT}/compare?job={jobs['clean digits']}"
        answer = stranger.get(urljoin(nginx.url, asked))
        assert answer.status_code == 303
        target = urlsplit(answer.headers["location"])
        assert target.path == f"{ROOT}/sign-in"
        assert f"next={ROOT}/compare" in target.query
        key = {"Authorization": f"Bearer {KEY}"}
        slash = stranger.get(f"{nginx.url}/v1/jobs/", headers=key)
        assert urlsplit(slash.headers["location"]).path == f"{ROOT}/v1/jobs"
        made = stranger.post(f"{nginx.url}/v1/jobs", json=samples.SPEC, headers=key)
        assert made.headers["location"] == f"{ROOT}/v1/jobs/{made.json()['id']}"
        stranger.post(f"{nginx.url}/v1/jobs/{made.json()['id']}/cancel", headers=key)
        document = stranger.get(f"{nginx.url}/openapi.json").json()
        assert document["servers"] == [{"url": ROOT}]
    direct = httpx.get(f"http://127.0.0.1:{_port(nginx)}/readyz")
    assert direct.status_code == 200, "a probe knows no path"


def _port(nginx: Proxy) -> int:
    config = (nginx.folder / "nginx.conf").read_text()
    found = re.search(r"proxy_pass http://127.0.0.1:(\d+)", config)
    assert found is not None
    return int(found[1])


def test_the_sdk_submits_uploads_and_follows_through_the_proxy(
    nginx: Proxy, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "problem.py").write_text("def build(): ...\n")
    own: dict[str, Any] = samples.SPEC | {"problem": {"entrypoint": "problem:build"}}
    transport = httpx.HTTPTransport(verify=nginx.trusting)
    with Client(nginx.url, KEY, transport=transport) as client:
        job = client.jobs.create(own, code=code)
        events = client.jobs.events(job.id)
        assert next(events).data["status"] == "queued", "an event arrives while the stream is open"
        job.update(name="through the proxy")
        job.cancel()
        assert [event.data["status"] for event in events] == ["cancelled"]
        assert client.jobs.retrieve(job.id).name == "through the proxy"
        assert client.jobs.list(status=JobStatus.CANCELLED).data[0].id == job.id
        job.delete()


def test_a_browser_signs_in_follows_and_opens_jobs(
    browser: Browser, nginx: Proxy, jobs: dict[str, str]
) -> None:
    trouble = Trouble()
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    trouble.watch(page)
    page.goto(f"{nginx.url}/jobs/{jobs['digits, l2 per unit']}")
    page.locator("#key").fill(KEY)
    page.locator("#sign-in button").click()
    page.wait_for_url(f"{nginx.url}/jobs/{jobs['digits, l2 per unit']}")
    settled(page)
    page.locator("a.brand").click()
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    page.locator(f'a.name[href="{ROOT}/jobs/{jobs["digits, two replicas"]}"]').click()
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    settled(page)
    page.goto(f"{nginx.url}/new")
    settled(page)
    context.close()
    assert trouble.found == []


def test_no_script_goes_to_an_address_without_the_path() -> None:
    """Addresses are given to request(), Follower or under(), which put the path before them."""
    for file in STATIC.glob("*.js"):
        for line in file.read_text().splitlines():
            direct = re.search(r"(?:assign|replace|fetch|EventSource|open)\(\s*[`\"']/", line)
            assert direct is None, f"{file.name}: {line.strip()}"


@pytest.mark.parametrize("wrong", ["tuning", "/a b", "/a//b", "/../x?"])
def test_a_root_path_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="must begin with a slash"):
        Server("unix:///nowhere", root_path=wrong)
