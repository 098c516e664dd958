"""Proxies in front of the service: real ones, with the configurations of the page about deploying and of the repository."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import kubernetes_validate
import pytest
import yaml

from polytask.service.config.settings import Settings
from polytask_client import Client
from tests.service.support.processes import polytask_serve, until
from tests.support.omissions import program

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
SHIPPED = (ROOT / "docker" / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
PREFIX = "/nlp"
_NGINX = """
daemon off;
error_log stderr;
pid {folder}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def shown(language: str) -> str:
    """The one example of the page in this language."""
    (text,) = re.findall(rf"```{language}\n(.+?)```", PAGE, re.DOTALL)
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The address of the service, which proxies show below the prefix."""
    with polytask_serve("--runner", "torch", "--root-path", PREFIX) as url:
        yield url


@contextlib.contextmanager
def running(folder: Path, command: list[str | Path], port: int) -> Iterator[str]:
    """The address of a proxy that listens on the port."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLYTASK_")}
    environment["POLYTASK_ROOT_PATH"] = PREFIX
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log, stdout=log, env=environment) as popen:
        try:
            until(lambda: popen.poll() is not None or _listens(port))
            assert popen.poll() is None, (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            popen.terminate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def nginx(folder: Path, site: str, service: str) -> Iterator[str]:
    """The address of nginx with this site in front of the service."""
    port = free_port()
    site = replaced(site, "listen 8080", f"listen 127.0.0.1:{port}")
    site = replaced(site, "127.0.0.1:8000", service.removeprefix("http://"))
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, site=site), encoding="utf-8")
    with running(folder, [program("nginx"), "-p", folder, "-c", config], port) as url:
        yield url


@contextlib.contextmanager
def haproxy(folder: Path, configuration: str, bind: str) -> Iterator[str]:
    """The address of HAProxy with this configuration."""
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(replaced(configuration, bind, f"bind 127.0.0.1:{port}"), encoding="utf-8")
    with running(folder, [program("haproxy"), "-db", "-f", config], port) as url:
        yield url


def replaced(text: str, old: str, new: str) -> str:
    """The text with `old` replaced, which is in it once."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


def assert_serves(url: str) -> None:
    """Pages, their links, predictions, and refusals of the service come through below the prefix."""
    home = f"{url}{PREFIX}"
    with httpx.Client(follow_redirects=True) as client:
        page = client.get(home)
        assert page.status_code == 200
        links = {urljoin(str(page.url), link) for link in re.findall(r'(?:href|src)="([^"#]+)"', page.text)}
        assert f"{home}/docs" in links
        links.remove(f"{home}/metrics")  # of one process: a proxy in front of several does not show them
        assert {link: client.get(link).status_code for link in links} == dict.fromkeys(links, 200)
        document = client.get(f"{home}/openapi.json").json()
        server = urljoin(f"{home}/openapi.json", document["servers"][0]["url"])
        inputs = {"inputs": ["where is my new card?"]}
        assert client.post(f"{server}/v1/tasks/intent/predict", json=inputs).status_code == 200
        assert client.post(f"{server}/v1/tasks/none/predict", json=inputs).json()["title"] == "Unknown task"
        large = client.post(f"{server}/v1/tasks/intent/predict", content=b" " * (Settings().max_body_bytes + 1))
        assert (large.status_code, large.headers["content-type"]) == (413, "application/problem+json")
    with Client(home) as polytask:
        assert polytask.predict("intent", ["where is my new card?"]).answers


@pytest.mark.parametrize("target", ["http://polytask", "http://polytask/"], ids=["passes the prefix on", "removes it"])
def test_nginx(tmp_path: Path, service: str, target: str) -> None:
    """With the page's lines for nginx the service works below a path, which nginx may remove or not."""
    site = replaced(shown("nginx"), "proxy_pass http://polytask;", f"proxy_pass {target};")
    with nginx(tmp_path, site, service) as url:
        assert_serves(url)


def test_haproxy(tmp_path: Path, service: str) -> None:
    """With the page's lines for HAProxy the service works below a path."""
    configuration = replaced(shown("text"), "127.0.0.1:8000", service.removeprefix("http://"))
    with haproxy(tmp_path, configuration, "bind :8080") as url:
        assert_serves(url)


def test_the_shipped_haproxy(tmp_path: Path, service: str) -> None:
    """The proxy of the replicas finds a ready one, and gives away nothing that concerns one replica, below a path either."""
    address = service.removeprefix("http://")
    configuration = replaced(
        SHIPPED, "server-template replica 8 service:8000 resolvers docker", f"server one {address}"
    )
    configuration = replaced(configuration, " init-state down", "")  # HAProxy 3.1 and later know it
    with haproxy(tmp_path, configuration, "bind :8000") as url, httpx.Client(base_url=url) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        assert_serves(url)
        for path in ("/metrics", "/admin", "/admin/models"):
            for prefix in ("", PREFIX):
                refused = client.get(prefix + path)
                assert (refused.status_code, refused.json()["detail"][:11]) == (404, "metrics and"), prefix + path


def test_the_ingress_is_valid() -> None:
    """The page's ingress has only fields that Kubernetes knows, and leads to the port of the Service."""
    (text,) = re.findall(r"```yaml\n(apiVersion: networking.+?)```", PAGE, re.DOTALL)
    ingress = yaml.safe_load(text)
    kubernetes_validate.validate(ingress, "1.37", strict=True)
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["path"] == PREFIX
    assert path["backend"]["service"] == {"name": "polytask", "port": {"number": 8000}}


def test_the_service_keeps_idle_connections_longer_than_proxies() -> None:
    """Without a time of their own the page's proxies give an idle connection up before the service does, by defaults known here."""
    nginx_s = 60  # keepalive_timeout of an upstream; ingress-nginx has the same; HAProxy's pool-purge-delay is 5 s
    assert Settings().keep_alive_s > nginx_s
    assert not re.search(r"keepalive_timeout|pool-purge-delay", shown("nginx") + shown("text") + SHIPPED)


def test_proxies_wait_longer_than_the_service() -> None:
    """Each timeout for a response is longer than the longest deadline, and each bound of bodies larger than the service's."""
    for text in (shown("nginx"), shown("text"), SHIPPED):
        (seconds,) = re.findall(r"(?:proxy_read_timeout|timeout server) (\d+)s", text)
        assert int(seconds) > Settings().deadline_s
    for size in re.findall(r"(?:client_max_body_size|client_body_buffer_size|proxy-body-size:) (\d+)m", PAGE):
        assert int(size) * 1024 * 1024 > Settings().max_body_bytes
