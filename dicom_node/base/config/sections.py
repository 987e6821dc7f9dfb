"""Sections of the configuration that know no others; ``settings.py`` puts all of them together."""

from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
)

from dicom_node.base.config.mistakes import AE_TITLE

DEVICE_RULES_FOLDER: Final = "device_rules"
"""Device rules that were made at the console, in ``node.data_dir``, unless a folder is configured."""
SLOWEST_KIB_PER_SECOND = 64.0
"""Rate at which an object that is slower is cut off, and tried later."""
REVEALED: Final = "secrets revealed"
"""The context of a dump for a process of the node itself, by a pipe that nobody else reads."""


def _dumped(secret: SecretStr, info: SerializationInfo) -> str:
    return secret.get_secret_value() if info.context == REVEALED else str(secret)


AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=AE_TITLE)]
Secret = Annotated[SecretStr, PlainSerializer(_dumped, return_type=str)]
"""A password, or what may hold one: neither repr, str, a log, a mistake nor JSON shows it."""


class Section(BaseModel):
    """A table of the configuration: frozen once read, unknown keys are mistakes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class LogSettings(Section):
    """``[log]``: the log besides standard error, and its form. No level logs patient data."""

    format: Literal["text", "json"] = "text"
    """text, or json: an object a line, with an event's number and fields under keys of their own."""
    file: Path | None = None
    """A file that all processes of this node write, besides standard error."""
    syslog: str = ""
    """Syslog besides standard error: a socket such as /dev/log, or HOST:PORT (UDP)."""


class AssemblySettings(Section):
    """``[assembly]``: when is a study complete."""

    quiet_seconds: float = Field(5, ge=0)
    """No object and no open association for this long, for CR and DX."""
    quiet_seconds_us: float = Field(30, ge=0)
    """The same for ultrasound, where the examination goes on between images."""
    mpps_minutes: float = Field(30, gt=0, le=1440)
    """How long a study that is quiet waits for the end of its performed procedure steps, and for the images
    that these name (peers with mpps)."""
    archive_seconds: float = Field(60, ge=0, le=600)
    """How long the job of a study waits for earlier studies (priors of a rule), once the study is quiet."""


class SpoolSettings(Section):
    """``[spool]``: received objects and built results on disk."""

    minimum_free_mib: int = Field(1024, ge=0)
    """Under this much free space (MiB) C-STORE is refused with A700 and the sender tries later."""
    waiting_objects: int = Field(20_000, ge=1)
    """Objects of one peer (of strangers: of one address) that may wait to be indexed. Beyond it C-STORE is
    refused with A700, and the peer tries later."""
    waiting_mib: int = Field(65_536, ge=1)
    """The same for the size of these objects (MiB)."""
    keep_days: float = Field(14, ge=0)
    """How long received objects stay after all results were confirmed."""
    result_days: float = Field(0, ge=0)
    """How long files of results stay after all of them were confirmed, and until the images are gone. 0: for
    good."""


class WorkerSettings(Section):
    """``[workers]``: processes that run the models."""

    processes: int = Field(1, ge=0, le=64)
    """Worker processes of this node; 0: this machine runs none."""
    threads: int = Field(2, ge=1, le=128)
    """CPU threads of one worker's inference."""
    inference: Literal["cpu", "cuda", "openvino"] = "cpu"
    """Where ONNX Runtime runs all networks: cuda and openvino need a build of it that has them."""
    models_dir: Path | None = None
    """Folder with your own model cards and weights, besides those shipped."""
    device_rules_dir: Path | None = None
    """Folder with your own device rules (*.toml): where your scanners write the patient's name."""
    memory_mib: int = Field(2304, ge=0)
    """Memory that one worker may take (MiB of data, RLIMIT_DATA; 0: no limit). An image that needs more fails
    by itself. Enough for ultrasound stills of 20 megapixels and X-rays of 40; larger stills are refused."""
    time_limit_seconds: float = Field(600, gt=0)
    """A job that takes longer is stopped and counts as failed once."""
    lease_seconds: float = Field(15, gt=0, le=3600)
    """A worker that shows no life for this long loses its job to another."""
    attempts: int = Field(3, ge=1)
    """How often a job is tried before it fails for good."""
    retry_seconds: float = Field(5, ge=0, le=3600)
    """Wait before the second attempt; doubles for each further one."""
    pipelines: tuple[str, ...] = ()
    """This node's workers load only these pipelines, and take only jobs of them; empty: all."""

    def takes(self, pipeline: str) -> bool:
        """Whether workers of this node run the pipeline ``pipeline``."""
        return not self.pipelines or pipeline in self.pipelines


class OutboxSettings(Section):
    """``[outbox]``: delivery of results."""

    deliver: bool = True
    """false: this machine sends nothing, another of the site does, such as one with --role delivery."""
    retry_seconds: float = Field(2, gt=0)
    """Wait before a delivery is tried again; doubles up to retry_limit_seconds."""
    retry_limit_seconds: float = Field(300, gt=0, le=3600)
    """Longest wait between two tries, at most an hour. A peer that is down is tried for ever."""
    confirm_seconds: float = Field(1800, gt=0)
    """An object that the peer does not show is asked for again this long, then sent again."""
    refusals: int = Field(3, ge=1)
    """After this many refusals that waiting does not cure (0122, other Axxx and Cxxx) a person must look."""
    answer_seconds: float = Field(120, gt=0)
    """A peer that takes no byte or gives no answer for this long is cut off and tried later. An object may
    take as long, and a second more for each 64 KiB."""
    assess_hours: float = Field(24, ge=0)
    """Event 4041 when results of a rule with assess_first wait longer for a person (hours); 0: never."""

    def seconds_for(self, size: int) -> float:
        """The most seconds that sending ``size`` bytes and waiting for the answer may take."""
        return self.answer_seconds + size / (SLOWEST_KIB_PER_SECOND * 1024)


class InspectionSettings(Section):
    """Limits of a received object's header; an object beyond a limit is quarantined."""

    maximum_items: int = Field(20_000, ge=1)
    """Items of sequences and fragments outside the pixels; a reader needs 0.1 ms and 1 kB for each."""
    maximum_elements: int = Field(200_000, ge=1)
    """Number of attributes, including those in items."""
    maximum_depth: int = Field(32, ge=1, le=200)
    """Sequences within sequences."""
    maximum_header_mib: int = Field(64, ge=1)
    """All values that are read: pixels, private ones, and others over 64 KiB outside of items are not."""
    maximum_inflated_mib: int = Field(512, ge=1)
    """A deflated data set when it is inflated (on disk, not in memory)."""
    memory_mib: int = Field(512, ge=64)
    """Memory (address space) of the process that reads objects, above what it starts with."""
    seconds: float = Field(30, gt=0)
    """Time to read one object, and a second more for every 10 MiB."""


def web_address(example: str, login_in: str) -> AfterValidator:
    """Validator of an http or https address without a login; ``login_in`` is the key for the login."""

    def checked(url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc):
            raise ValueError(f"write it as {example}; a login goes into {login_in}")
        return url

    return AfterValidator(checked)
