"""Who is let in: this machine's own pages, or whoever knows the token."""

import pytest

from consilia.errors import UserError
from consilia.serve import access
from consilia.serve.access import TOKEN_VARIABLE, Access, choose_access, is_loopback

TOKEN = "0123456789abcdef-token"


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """Where a token is made if none is given."""
    path = tmp_path / "home" / "serve_token"
    monkeypatch.setattr(access, "TOKEN_FILE", path)
    return path


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:8000", "[::1]:8000"])
def test_a_loopback_name_is_let_in_at_any_port(client, host):
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "[::1", ""])
def test_a_name_that_was_made_to_mean_this_machine_is_refused(client, host):
    answer = client.get("/v1/model", headers={"host": host})
    assert answer.status_code == 400
    assert "localhost" in answer.json()["error"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", "http://localhost"])
def test_a_page_of_another_site_may_not_write(client, pictures, sent, origin):
    answer = client.post("/v1/predict", files=sent(pictures[0]), headers={"origin": origin})
    assert answer.status_code == 403
    assert "own page" in answer.json()["error"]


def test_the_own_page_may_write(client, pictures, sent):
    answer = client.post("/v1/predict", files=sent(pictures[0]), headers={"origin": "http://localhost:8000"})
    assert answer.status_code == 200


def test_with_a_token_everything_but_the_page_asks_for_it_from_any_host(asked, pictures, sent):
    with asked(access=Access(token=TOKEN)) as client:
        client.base_url = "http://reader.hospital.example"
        for path in ("/", "/page.css", "/page.js", "/healthz"):
            assert client.get(path).status_code == 200
        for given in (None, "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer \xe4"):
            headers = {} if given is None else {"authorization": given.encode("latin-1")}
            for path in ("/v1/model", "/metrics", "/openapi.json", "/nowhere"):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
            assert client.post("/v1/predict", files=sent(pictures[0]), headers=headers).status_code == 401
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/v1/model", headers=headers).status_code == 200
        assert client.post("/v1/predict", files=sent(pictures[0]), headers=headers).status_code == 200


def test_loopback_needs_no_token_and_any_other_address_does(own_file):
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "reader", "")] == [False] * 5
    assert choose_access("127.0.0.1", None).token is None
    assert not own_file.exists()
    made = choose_access("0.0.0.0", None)
    assert own_file.read_text().strip() == made.token
    assert len(made.token) >= 32
    assert own_file.stat().st_mode & 0o777 == 0o600
    assert made.source == str(own_file)
    assert choose_access("0.0.0.0", None) == made


def test_a_token_that_is_given_is_asked_for_on_loopback_too(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    assert choose_access("127.0.0.1", path).token == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert choose_access("127.0.0.1", None).token == TOKEN
    with pytest.raises(UserError, match=TOKEN_VARIABLE):
        choose_access("127.0.0.1", path)


def test_a_file_that_others_may_read_holds_no_token(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        choose_access("0.0.0.0", path)
    with pytest.raises(UserError, match="must be a file"):
        choose_access("0.0.0.0", tmp_path)


@pytest.mark.parametrize("token", ["", "short", "with a space in the middle", "päßwörter-sind-lang-genug"])
def test_a_token_that_is_short_or_cannot_be_sent_is_refused(monkeypatch, token):
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(UserError, match="at least 16 characters") as raised:
        choose_access("0.0.0.0", None)
    assert not token or token not in str(raised.value)
