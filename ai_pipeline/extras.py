"""The libraries of the extra ``ai``. A machine that only receives images is installed without them."""

from importlib.util import find_spec

from ai_pipeline.distribution import to_install


def missing() -> str:
    """A sentence on how to install missing modules; "" when all are installed."""
    # What every pipeline imports beyond the minimal installation (pyproject.toml).
    names = [name for name in ("cv2", "onnxruntime", "rapidocr") if find_spec(name) is None]
    if not names:
        return ""
    return f"{', '.join(names)} not installed: {to_install('ai')}"
