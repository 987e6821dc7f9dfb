"""Sign-in with accounts of the hospital: OpenID Connect 1.0, the authorization code flow with PKCE.

No data of the provider is kept between two sign-ins: its keys may change in between.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

import requests

from dicom_connectors.oidc import hospital_accounts
from dicom_connectors.oidc.hospital_accounts import HospitalPerson, unusable
from dicom_connectors.oidc.settings import OidcConsole, OidcSettings, is_safe
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.errors import NotFound, SignInRefused, Unavailable
from dicom_node.base.events import ACCOUNTS_UNUSABLE, happened
from dicom_node.base.lifecycle import AuditAction
from dicom_node.base.store.database import Database
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import Connections
from dicom_node.deliver.scu.http import FAULTY_ANSWER, BoundedSession
from dicom_node.people import audit, users
from dicom_node.people.audit import Person
from dicom_node.people.preflight import Found, Tried

if TYPE_CHECKING:
    from authlib.oauth2.client import OAuth2Client

MINUTES: Final = 10
"""So long a person may take at the provider."""
BACK: Final = "/sign-in/oidc/back"
"""The path at the console that the provider sends browsers to."""
_ORIGIN = "oidc"  # in the audit
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Of signatures by the provider's private key: never "none", never one by a secret that others know."""
_LEEWAY_SECONDS = 60  # between the clocks of provider and node
_LARGEST = 2**18  # bytes of one answer


@dataclass(frozen=True, slots=True)
class _IdentityProvider:
    """The hospital's identity provider during one sign-in: settings, HTTP session, OAuth2 client, and the
    metadata that it publishes about itself.
    """

    settings: OidcSettings
    session: BoundedSession
    client: "OAuth2Client"
    metadata: Mapping[str, Any]

    def address(self, endpoint: str) -> str:
        """Return the URL that the provider's metadata name as ``endpoint``.

        Raises ValueError if it is not encrypted.
        """
        found = self.metadata[endpoint]
        if not is_safe(found):
            raise ValueError(f"{endpoint} is no address with https")
        return str(found)


def is_configured(settings: Settings) -> bool:
    """Return whether people can sign in with accounts of the hospital."""
    return typed_section(settings.console, OidcConsole).oidc is not None


def probe(settings: Settings) -> Found:
    """Read the metadata and the keys of the identity provider, and yield whether a sign-in can begin."""
    if not is_configured(settings) or find_spec("authlib") is None:
        return
    try:
        with _provider_with_deadline(settings) as provider:
            for endpoint in ("authorization_endpoint", "token_endpoint"):
                provider.address(endpoint)
            _json(provider.session, provider.settings, provider.address("jwks_uri"))
    except Unavailable as error:
        why = "; ".join(getattr(error, "__notes__", ()))
        yield Tried("console.oidc", False, f"nobody signs in by the provider: {why}")
    else:
        yield Tried("console.oidc", True, "the provider answers")


def begin(settings: Settings, secret: str) -> str:
    """Return the identity provider's URL at which a sign-in begins.

    ``secret``: a random text that the browser keeps in a cookie, and with which it must come back. Raises
    Unavailable, and NotFound if no provider is configured.
    """
    with _provider_with_deadline(settings) as provider:
        wanted = (
            {"acr_values": " ".join(provider.settings.acr_values)} if provider.settings.acr_values else {}
        )
        address, _ = provider.client.create_authorization_url(
            provider.address("authorization_endpoint"),
            state=_derived_hash(secret, "state"),
            nonce=_derived_hash(secret, "nonce"),
            code_verifier=_derived_hash(secret, "verifier"),
            **wanted,
        )
    return str(address)


def finish(
    database: Database, settings: Settings, secret: str, answer: Mapping[str, str], address: str, agent: str
) -> str:
    """Finish a sign-in: open a console session for the person, and return its token.

    ``secret``: of ``begin``; ``answer``: the query parameters with which the provider sent the browser back;
    ``address``, ``agent``: the browser's. Raises SignInRefused, Unavailable, and NotFound if no provider is
    configured.
    """
    oidc = _oidc_settings(settings)
    with database.read() as session:
        users.refuse_too_many(session, address)
    try:
        _check(oidc, secret, answer)
        with _provider_with_deadline(settings) as provider:
            claims = _claims(provider, secret, answer["code"])
            groups = _groups(provider, claims)
    except SignInRefused as error:
        with database.write() as session:
            note = str(error)
            audit.note(
                session, Person("", address), AuditAction.SIGN_IN_REFUSED, origin=_ORIGIN, because=note
            )
        raise
    person = HospitalPerson(_ORIGIN, oidc.issuer, claims["sub"], _name(oidc, claims), groups)
    return hospital_accounts.enter(database, oidc, person, address, agent)


def sign_out_address(settings: Settings) -> str:
    """Return the URL for signing out at the identity provider (OpenID Connect RP-Initiated Logout 1.0); "" if
    it has none.

    Raises Unavailable, and NotFound if no provider is configured.
    """
    with _provider_with_deadline(settings) as provider:
        if "end_session_endpoint" not in provider.metadata:
            return ""
        back = f"{settings.console.url.rstrip('/')}/sign-in"
        query = {"client_id": provider.settings.client_id, "post_logout_redirect_uri": back}
        return f"{provider.address('end_session_endpoint')}?{urlencode(query)}"


def _derived_hash(secret: str, purpose: str) -> str:
    """Return a hash of the sign-in's secret for one purpose ("state", "nonce", "verifier").

    Neither the secret nor another purpose's hash can be computed from it.
    """
    return hashlib.sha256(f"{purpose} {secret}".encode()).hexdigest()


def _oidc_settings(settings: Settings) -> OidcSettings:
    """Return the settings of the identity provider. Raises NotFound if none is configured."""
    if not (oidc := typed_section(settings.console, OidcConsole).oidc):
        raise NotFound("There is no such page.")
    return oidc


def _check(oidc: OidcSettings, secret: str, answer: Mapping[str, str]) -> None:
    """Raise SignInRefused if the provider's answer belongs to another browser's sign-in or another provider,
    or has no authorization code.
    """
    state = answer.get("state", "").encode(errors="replace")
    if not secret or not hmac.compare_digest(state, _derived_hash(secret, "state").encode()):
        raise SignInRefused("This sign-in was not begun in this browser, or too long ago: begin again.")
    if answer.get("iss", oidc.issuer) != oidc.issuer:  # RFC 9207
        raise SignInRefused("The answer is of another provider.")
    if not answer.get("code"):
        raise SignInRefused("The provider did not sign you in.")


@contextmanager
def _provider_with_deadline(settings: Settings) -> Iterator[_IdentityProvider]:
    """Context manager: the identity provider; all calls to it in the block share one deadline.

    Raises Unavailable if it answers late or unusably, and NotFound if none is configured.
    """
    from authlib.common.errors import AuthlibBaseError
    from joserfc.errors import JoseError

    oidc = _oidc_settings(settings)
    connections = Connections(oidc.seconds)
    with hospital_accounts.place():
        try:
            with connections.within(oidc.seconds), BoundedSession(connections, oidc.authorities) as session:
                yield _discover_provider(settings, oidc, session)
        except requests.RequestException as error:
            late = connections.timed_out or isinstance(error, requests.Timeout)
            raise unusable(
                "no answer in time" if late else tls_refusal(error) or type(error).__name__
            ) from None
        except (AuthlibBaseError, JoseError, *FAULTY_ANSWER) as error:
            raise unusable(f"an answer that cannot be read: {type(error).__name__}") from None


def _discover_provider(settings: Settings, oidc: OidcSettings, session: BoundedSession) -> _IdentityProvider:
    """Return the identity provider, after reading its metadata (OpenID Connect Discovery 1.0, section 4)."""
    from authlib.integrations.requests_client import OAuth2Session
    from authlib.oauth2.client import OAuth2Client

    class BoundedClient(OAuth2Client):  # type: ignore[misc]  # without types
        """OAuth2 client that sends its requests by the session with limits on time and size."""

        client_auth_class = OAuth2Session.client_auth_class

    metadata = _json(session, oidc, f"{oidc.issuer.rstrip('/')}/.well-known/openid-configuration")
    if metadata["issuer"] != oidc.issuer:
        raise ValueError("another issuer")
    methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    basic = "client_secret_basic" in methods
    client = BoundedClient(
        session,
        client_id=oidc.client_id,
        client_secret=oidc.client_secret.get_secret_value(),
        token_endpoint_auth_method="client_secret_basic" if basic else "client_secret_post",
        scope=" ".join(dict.fromkeys(("openid", *oidc.scopes))),
        redirect_uri=settings.console.url.rstrip("/") + BACK,
        code_challenge_method="S256",
    )
    return _IdentityProvider(oidc, session, client, metadata)


def _json(session: BoundedSession, oidc: OidcSettings, address: str, token: str = "") -> dict[str, Any]:
    """Return the JSON object at the URL ``address``.

    ``token``: bearer token to send, "" for none. Raises requests.RequestException and ValueError.
    """

    def shown(request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the bearer token, if any, to a request; this also keeps it from using a login of ~/.netrc for
        this host.
        """
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    answer = session.get(address, auth=shown, timeout=oidc.seconds)
    answer.raise_for_status()
    return _limited_json(answer)


def _limited_json(answer: requests.Response) -> dict[str, Any]:
    """Return the JSON object in an HTTP answer. Raises ValueError if it is too long or no object."""
    if len(answer.content) > _LARGEST:
        raise ValueError("the answer is too long")
    found = answer.json()
    if not isinstance(found, dict):
        raise ValueError("the answer is no object")
    return found


def _claims(provider: _IdentityProvider, secret: str, code: str) -> dict[str, Any]:
    """Exchange the authorization code for an ID token, check it (OpenID Connect Core 1.0, 3.1.3.7), and
    return its claims.

    The access token is added to them as ``access_token``. Raises SignInRefused if code or token is not valid
    for this sign-in.
    """
    from authlib.integrations.base_client.errors import OAuthError
    from authlib.oauth2.base import OAuth2Error
    from authlib.oidc.core import CodeIDToken
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet
    from joserfc.jws import JWSRegistry

    oidc = provider.settings
    try:
        given = provider.client.fetch_token(
            provider.address("token_endpoint"),
            grant_type="authorization_code",
            code=code,
            code_verifier=_derived_hash(secret, "verifier"),
            timeout=oidc.seconds,
        )
    except (OAuthError, OAuth2Error) as error:
        if error.error == "invalid_grant":
            raise SignInRefused("The provider does not know this sign-in any more: begin again.") from None
        raise
    keys = KeySet.import_key_set(_json(provider.session, oidc, provider.address("jwks_uri")))  # type: ignore[arg-type]
    try:
        token = jwt.decode(
            given["id_token"], keys, registry=JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False)
        )
        claims = CodeIDToken(
            token.claims,
            token.header,
            {"aud": {"essential": True, "value": oidc.client_id}},
            {
                "nonce": _derived_hash(secret, "nonce"),
                "client_id": oidc.client_id,
                "access_token": given.get("access_token"),
            },
        )
        claims.validate(leeway=_LEEWAY_SECONDS)
        if claims["iss"] != oidc.issuer or (oidc.acr_values and claims.get("acr") not in oidc.acr_values):
            raise ValueError("another issuer, or a weaker sign-in")
        if not isinstance(claims["sub"], str) or not re.fullmatch(r"[ -~]{1,255}", claims["sub"]):
            raise ValueError("no sub")
    except (JoseError, *FAULTY_ANSWER) as error:
        happened(ACCOUNTS_UNUSABLE, reason=f"an ID token that is not accepted: {type(error).__name__}")
        raise SignInRefused("What the provider says of you is not for this sign-in, or not signed.") from None
    return {**claims, "access_token": str(given.get("access_token", ""))}


def _groups(provider: _IdentityProvider, claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the person's groups, from the claims of the ID token or, if it has none, from the UserInfo
    endpoint.
    """
    name = provider.settings.groups_claim
    found = claims.get(name)
    if found is None and "userinfo_endpoint" in provider.metadata and claims["access_token"]:
        address = provider.address("userinfo_endpoint")
        said = _json(provider.session, provider.settings, address, claims["access_token"])
        found = said.get(name) if said.get("sub") == claims["sub"] else None  # Core 5.3.2
    listed = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return frozenset(one for one in listed if isinstance(one, str))


def _name(oidc: OidcSettings, claims: Mapping[str, Any]) -> str:
    """Return the user name for a new account: the person's name at the provider or, without one,
    the subject.
    """
    given = claims.get("preferred_username")
    whole = given if isinstance(given, str) and given.strip() else claims["sub"]
    local, _, domain = whole[:255].partition("@")
    return hospital_accounts.name_at(local, domain or urlsplit(oidc.issuer).hostname or "")
