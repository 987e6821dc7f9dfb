"""Settings of the service: a TOML file, and environment variables, which win over it."""

import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from ai_pipeline.errors import PipelineError, first_line
from ai_pipeline.images.limits import ImageLimits
from ai_pipeline.mistakes import mistakes

PREFIX = "AI_PIPELINE_SERVE_"
"""Environment variables are this with the setting's name in capitals: ``AI_PIPELINE_SERVE_TOKEN``."""


class SettingsError(PipelineError):
    """The settings have mistakes: one on each line, with the remedy."""


class ServeSettings(BaseModel):
    """All settings of the service (docs/connect/serve.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. Another than this machine's own needs a token, and TLS or ``plain_http``."""
    port: int = Field(8000, ge=1, le=65535)
    """TCP port; that of Karnak's configuration by default."""
    certificate: Path | None = None
    """Certificate chain of the server (PEM) for TLS."""
    private_key: Path | None = None
    """Its key (PEM)."""
    token: SecretStr | None = Field(None, min_length=16)
    """What every request but ``/health`` must bear: ``Authorization: Bearer …``; none: no token."""
    plain_http: bool = False
    """Serve other machines without TLS: a proxy ends TLS, or the address is inside a container's network."""
    body_mib: int = Field(512, ge=1, le=16_384)
    """Largest body of a request (MiB)."""
    megapixels: int = Field(40, ge=1, le=1000)
    """Pixels of one frame (millions)."""
    decoded_mib: int = Field(2048, ge=1, le=65_536)
    """All frames of an image, decoded, and all cleaned objects of a request (MiB)."""
    seconds: float = Field(300, gt=0, le=3600)
    """In which a body must come, a free process must be found, an object must be cleaned, and an answer must
    be taken.
    """
    study_seconds: float = Field(1800, gt=0, le=86_400)
    """In which all objects of a request must be cleaned; none is begun later."""
    requests: int = Field(8, ge=1, le=1000)
    """Requests at once; further ones are answered 429."""
    processes: int = Field(1, ge=1, le=256)
    """Objects that are cleaned at once, each by a process of its own."""
    memory_mib: int = Field(3072, ge=1024)
    """Memory of each of these processes (MiB)."""
    models_dir: Path | None = None
    """Folder of one's own models."""
    device_rules: Path | None = None
    """Folder of one's own device rules."""

    @property
    def limits(self) -> ImageLimits:
        """The largest image that is decoded."""
        return ImageLimits(megapixels=self.megapixels, decoded_mib=self.decoded_mib)

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        """Raise ValueError for half a TLS configuration, and for an address that needs protection."""
        if (self.certificate is None) is not (self.private_key is None):
            raise ValueError("certificate and private_key must both be given")
        if is_loopback(self.host):
            return self
        if self.token is None:
            raise ValueError(f"host {self.host} is for other machines: set a token")
        if self.certificate is None and not self.plain_http:
            raise ValueError(f"host {self.host} is for other machines: set certificate and private_key")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_settings(file: Path | None, environment: Mapping[str, str]) -> ServeSettings:
    """The settings of ``file`` (TOML; None for none), over which those of ``environment`` win. Raises
    SettingsError, which names every mistake and no value.
    """
    given: dict[str, object] = {}
    if file is not None:
        try:
            given = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{file} is no readable TOML: {first_line(error)}") from error
    given |= {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    try:
        return ServeSettings.model_validate(given)
    except ValidationError as error:
        lines = [f"{found.key or 'settings'}: {found.remedy}" for found in mistakes(error)]
        raise SettingsError("\n".join(lines)) from error
