"""An OpenID provider that is not ours, as a process of its own: Django with django-oauth-toolkit.

It signs with jwcrypto and speaks OAuth with oauthlib; the console does neither with these. It wants PKCE.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_connectors.oidc.settings import OidcSettings
from dicom_node.base.lifecycle import UserRole
from tests.ports import free_port
from tests.waiting import wait_until_served

CLIENT, SECRET, PASSWORD = "dicom-ai-node", "a secret of console and provider", "a password of the house"
ROLES = {"Radiology": UserRole.READER, "PACS-Admins": UserRole.ADMIN}


@dataclass(frozen=True, slots=True)
class Hospital:
    """The provider."""

    issuer: str

    def settings(self, **others: Any) -> OidcSettings:
        """How the console comes to it."""
        given = {"issuer": self.issuer, "client_id": CLIENT, "client_secret": SECRET, "roles": ROLES}
        return OidcSettings.model_validate(given | others)


@contextmanager
def hospital(folder: Path, console: str) -> Iterator[Hospital]:
    """The provider, at another site than the console: "localhost" and "127.0.0.1" are two."""
    port = free_port()
    one = Hospital(f"http://localhost:{port}/o")
    (folder / "people.json").write_text(json.dumps({"anna": ["Radiology"], "bert": []}), encoding="utf-8")
    command = [sys.executable, "-m", "tests.oidc_lab", str(folder), str(port), console]
    with (folder / "provider.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[1])
    try:
        wait_until_served(process, f"{one.issuer}/.well-known/openid-configuration")
        yield one
    finally:
        process.terminate()
        process.wait(20)


def _serve(folder: Path, port: int, console: str) -> None:
    import django
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from django.conf import settings
    from django.core.management import call_command

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    sign_in = "<form method=post>{% csrf_token %}{{ form }}<button>Log in</button></form>"
    templates = {"registration/login.html": sign_in}
    settings.configure(
        SECRET_KEY="of this test",
        ALLOWED_HOSTS=["localhost"],
        ROOT_URLCONF="tests.oidc_lab",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "provider.db"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
                        "oauth2_provider"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                    "django.middleware.csrf.CsrfViewMiddleware",
                    "django.contrib.auth.middleware.AuthenticationMiddleware"],
        TEMPLATES=[{
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", templates),
                                    "django.template.loaders.app_directories.Loader"],
                        "context_processors": ["django.template.context_processors.request"]},
        }],
        LOGIN_URL="/login",
        USE_TZ=True,
        OAUTH2_PROVIDER={
            "OIDC_ENABLED": True, "OIDC_RSA_PRIVATE_KEY": key.decode(), "PKCE_REQUIRED": True,
            "OAUTH2_VALIDATOR_CLASS": "tests.oidc_lab.validator", "OIDC_RP_INITIATED_LOGOUT_ENABLED": True,
            "OIDC_RP_INITIATED_LOGOUT_ALWAYS_PROMPT": False,
            "SCOPES": {"openid": "who it is", "profile": "the name"},
        },
    )  # fmt: skip
    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth import get_user_model
    from oauth2_provider.models import Application

    for name in json.loads((folder / "people.json").read_text(encoding="utf-8")):
        get_user_model().objects.create_user(name, password=PASSWORD)
    Application.objects.create(
        client_id=CLIENT, client_secret=SECRET, client_type="confidential", algorithm="RS256",
        authorization_grant_type="authorization-code", skip_authorization=True,
        redirect_uris=f"{console}/sign-in/oidc/back", post_logout_redirect_uris=f"{console}/sign-in",
    )  # fmt: skip
    os.environ["PEOPLE"] = str(folder / "people.json")
    call_command("runserver", f"localhost:{port}", "--noreload", "--skip-checks")


def __getattr__(name: str) -> Any:
    """What Django asks of this module, which the process of the tests has without Django."""
    if name == "urlpatterns":
        from django.contrib.auth.views import LoginView
        from django.urls import include, path

        return [path("o/", include("oauth2_provider.urls")), path("login", LoginView.as_view())]
    if name == "validator":
        from oauth2_provider.oauth2_validators import OAuth2Validator

        class Validator(OAuth2Validator):  # type: ignore[misc]  # without types
            oidc_claim_scope = None

            def get_additional_claims(self, request: Any) -> dict[str, Any]:
                people = json.loads(Path(os.environ["PEOPLE"]).read_text(encoding="utf-8"))
                return {"preferred_username": request.user.username, "groups": people[request.user.username]}

        return Validator
    raise AttributeError(name)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
