import http.client
import re

import pytest
from websockets.exceptions import InvalidStatus

from knotjax.errors import InputError
from knotjax.serve import access, limits
from knotjax.serve.app import FILES
from tests.serve.serving import Client, serving

TOKEN = "correct horse battery"


@pytest.fixture(scope="module")
def server():
    with serving(sessions=3) as server:
        yield server


@pytest.fixture(scope="module")
def guarded():
    with serving(sessions=2, token=TOKEN) as server:
        yield server


def get(server, target, **headers):
    """Status, headers and body for a target that is sent as it is, without any client's clean-up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.putrequest("GET", target, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.5.6.7"])
def test_this_machine_alone_needs_no_token(host):
    access.check_binding(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_an_address_that_others_reach_needs_a_token(host):
    with pytest.raises(InputError, match="token"):
        access.check_binding(host, None)
    access.check_binding(host, TOKEN)


@pytest.mark.parametrize("token", ["", "short", "x" * 201, "with\nnewline in it", "schlüssel schlüssel"])
def test_a_token_that_is_soon_guessed_is_refused(token):
    with pytest.raises(InputError, match="--token"):
        access.check_binding("127.0.0.1", token)


def test_every_answer_has_the_headers(server):
    for target in ("/", "/page.js", "/about", "/healthz", "/metrics", "/nothing"):
        _, headers, _ = get(server, target)
        for name, value in access.HEADERS.items():
            assert headers[name] == value, target
        assert "server" not in headers


def test_the_page_asks_nobody_else(server):
    for target in ("/", "/page.js", "/page.css"):
        status, _, body = get(server, target)
        assert status == 200 and not re.search(rb"https?://|//[a-z]+\.[a-z]", body), target
    _, _, page = get(server, "/")
    assert b"<script>" not in page and b"style=" not in page and not re.search(rb"\son[a-z]+=", page)
    assert all(target.encode() in page or target == "/" or target == "/hello.wav" for target in FILES)


@pytest.mark.parametrize(
    "target",
    [
        "/../cli.py", "/page/../../cli.py", "/%2e%2e/cli.py", "/..%2fcli.py", "/%2e%2e%2f%2e%2e%2fetc/passwd",
        "//etc/passwd", "/etc/passwd", "/page.js%00.png", "/page.js/../../cli.py", "/portrait.png/", "/small",
        "/assets/small/manifest.json", "/docs", "/openapi.json", "/redoc", "/page.js\\..\\cli.py", "/%ff%fe",
    ],
)  # fmt: skip
def test_no_path_leads_to_other_files(server, target):
    status, _, body = get(server, target)
    assert status in (307, 400, 404) and b"root:" not in body and b"import" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(server, method):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, "/", body=b"x" * 1000)
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.parametrize("name", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "[::"])
def test_another_name_for_this_machine_is_refused_without_a_token(server, name):
    assert get(server, "/", Host=name)[0] in (400, 421)
    assert get(server, "/", Host=f"localhost:{server.port}")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://", "https://[", ""])
def test_pages_of_other_origins_are_refused(server, origin):
    with pytest.raises(InvalidStatus) as caught:
        Client(server, origin=origin)
    assert caught.value.response.status_code == 403


def test_the_servers_own_page_is_let_in(server):
    with Client(server, origin=f"http://127.0.0.1:{server.port}") as client:
        client.until("ready")


@pytest.mark.parametrize("token", ["", TOKEN[:-1], "ü" * 20])
def test_a_wrong_token_is_refused(guarded, token):
    with Client(guarded, token=token) as client:
        assert client.closed() == limits.POLICY and client.errors == ["token"]
    assert guarded.hub.busy == 0


def test_the_right_token_is_let_in_by_message_or_header(guarded):
    with Client(guarded, token=TOKEN) as client:
        client.until("ready")
    with Client(guarded, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        client.until("ready")


def test_a_token_in_the_address_counts_for_nothing(guarded):
    assert get(guarded, f"/metrics?token={TOKEN.replace(' ', '+')}")[0] == 401
    assert get(guarded, "/metrics", Authorization="Bearer wrong")[0] == 401
    assert get(guarded, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert get(guarded, "/healthz")[0] == 200


def test_the_first_message_must_be_hello(guarded):
    with Client(guarded, hello=False) as client:
        client.tell("start")
        assert client.closed() == limits.POLICY and client.errors == ["out_of_order"]


def test_who_says_nothing_is_sent_away():
    with serving(hello_seconds=0.3) as server, Client(server, hello=False) as client:
        assert client.closed() == limits.NO_HELLO
