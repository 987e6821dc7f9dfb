"""An OpenID provider that says whatever a test wants: claims, algorithms, keys and answers of any kind."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from dicom_connectors.oidc.settings import OidcSettings
from tests.console_lab import Browser
from tests.ports import Quiet, serving

CLIENT, SECRET = "dicom-ai-node", "a secret of console and forger"
KEY, STRANGER = RSAKey.generate_key(2048, {"kid": "1"}), RSAKey.generate_key(2048, {"kid": "1"})

Answer = tuple[int, bytes]


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@dataclass
class Forger:
    """``claims``: over the right ones, None takes one away. ``answers``: other ones, by path."""

    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Callable[[], Answer]] = field(default_factory=dict)
    sign: Callable[[dict[str, Any]], str] = lambda claims: jwt.encode(
        {"alg": "RS256", "kid": "1"}, claims, KEY
    )
    userinfo: dict[str, Any] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Code → the request that it was given for: each is good once."""

    def settings(self, **others: Any) -> OidcSettings:
        """How a console comes to it."""
        roles = {"readers": "reader", "admins": "admin"}
        given = {"issuer": self.issuer, "client_id": CLIENT, "client_secret": SECRET, "roles": roles}
        return OidcSettings.model_validate(given | others)

    def begin(self, browser: Browser) -> dict[str, str]:
        """Begin a sign-in: what the browser brings to the provider."""
        assert browser.get("/sign-in/oidc") == 303, browser.text
        address = urlsplit(browser.headers["location"])
        assert f"{address.scheme}://{address.netloc}{address.path}" == f"{self.issuer}/authorize"
        return dict(parse_qsl(address.query))

    def sign_in(self, browser: Browser) -> int:
        """The whole way: the status with which the console answers."""
        asked = self.begin(browser)
        return self.come_back(browser, self.code(asked), asked["state"])

    def code(self, asked: dict[str, str]) -> str:
        """The code that the provider gives for this request."""
        code = f"code{len(self.codes)}"
        self.codes[code] = asked
        return code

    @staticmethod
    def come_back(browser: Browser, code: str, state: str, further: str = "") -> int:
        """Go back to the console with it."""
        return browser.get(f"/sign-in/oidc/back?code={code}&state={state}{further}")

    def answer(self, path: str, body: bytes, authorization: str) -> Answer:
        """What is answered to the console."""
        self.asked.append(path)
        if path in self.answers:
            return self.answers[path]()
        found: dict[str, Any]
        match path:
            case "/.well-known/openid-configuration":
                names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
                found = {name: f"{self.issuer}/{place}" for name, place in names.items()}
                found |= {"issuer": self.issuer, "userinfo_endpoint": f"{self.issuer}/userinfo"}
                found |= self.described
            case "/keys":
                found = {"keys": [KEY.as_dict(private=False)]}
            case "/userinfo":
                assert authorization == "Bearer access"
                found = self.userinfo
            case _:
                given = {key: value[0] for key, value in parse_qs(body.decode()).items()}
                asked = self.codes.pop(given.get("code", ""), None)
                verifier = given.get("code_verifier", "").encode()
                fits = asked and b64(hashlib.sha256(verifier).digest()).decode() == asked["code_challenge"]
                if not asked or not fits or given["redirect_uri"] != asked["redirect_uri"]:
                    return 400, b'{"error": "invalid_grant"}'
                found = {"access_token": "access", "token_type": "Bearer", "id_token": self._token(asked)}
        return 200, json.dumps(found).encode()

    def _token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT, "sub": "1234", "iat": now, "exp": now + 300,
            "nonce": asked["nonce"], "groups": ["readers"], "preferred_username": "anna",
        } | self.claims  # fmt: skip
        return self.sign({key: value for key, value in claims.items() if value is not None})


@contextmanager
def forging() -> Iterator[Forger]:
    """It, on a port of this machine."""
    forger = Forger()

    class Handler(Quiet):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = forger.answer(self.path, body, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            with suppress(OSError):  # who asked has gone: it reads no more than it may
                self.wfile.write(said)

        do_POST = do_GET

    with serving(Handler) as port:
        forger.issuer = f"http://127.0.0.1:{port}"
        yield forger


def unsigned(claims: dict[str, Any]) -> str:
    """Algorithm "none"."""
    return b".".join([b64(b'{"alg":"none"}'), b64(json.dumps(claims).encode()), b""]).decode()


def by_a_stranger(claims: dict[str, Any]) -> str:
    """Of the same key ID, by another key."""
    return jwt.encode({"alg": "RS256", "kid": "1"}, claims, STRANGER)


def by_the_public_key(claims: dict[str, Any]) -> str:
    """HS256 with what everybody knows as its secret."""
    signed = b".".join([b64(b'{"alg":"HS256","kid":"1"}'), b64(json.dumps(claims).encode())])
    return (signed + b"." + b64(hmac.digest(KEY.as_pem(private=False), signed, "sha256"))).decode()


def by_the_secret(claims: dict[str, Any]) -> str:
    """HS256 with the client's secret."""
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))
