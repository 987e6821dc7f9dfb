"""Certificates for tests, by openssl."""

import subprocess
from pathlib import Path

_NEW = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def self_signed(folder: Path, name: str) -> tuple[Path, Path]:
    """Certificate and key of a server at 127.0.0.1 that no authority knows."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    _openssl(*_NEW, "-x509", "-days", "2", "-subj", f"/CN={name}", *names, *_out(certificate, key))
    return certificate, key


class Authority:
    """A certification authority for one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.certificate, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        _openssl(*_NEW, "-x509", "-days", "2", "-subj", f"/CN={name}", *_out(self.certificate, self._key))

    def certify(
        self, name: str, *, days: int = 2, hosts: str = "DNS:localhost,IP:127.0.0.1"
    ) -> tuple[Path, Path]:
        """Certificate and key of a client, or of a host with these names; one of -1 ``days`` has expired."""
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        _openssl(*_NEW, "-subj", f"/CN={name}", *_out(request, key))
        names = self.folder / "names"
        names.write_text(f"subjectAltName={hosts}\n", encoding="ascii")
        _openssl(
            *("x509", "-req", "-days", str(days), "-in", str(request), "-CA", str(self.certificate)),
            *("-CAkey", str(self._key), "-CAcreateserial", "-extfile", str(names), "-out", str(certificate)),
        )
        return certificate, key


def _out(file: Path, key: Path) -> tuple[str, ...]:
    return ("-keyout", str(key), "-out", str(file))


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
