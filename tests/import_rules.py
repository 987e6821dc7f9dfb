"""Which room may import what, and which module which library: the tables of `test_architecture.py`."""

from __future__ import annotations

from importlib.metadata import entry_points

CELLAR = (
    "dicom_node",
    "dicom_node.model",
    "dicom_node.dicom",
    "dicom_node.config.addresses",
    "dicom_node.config.sections",
    "dicom_node.config.settings",
    "dicom_node.config.object_store",
    "dicom_node.config.notifications",
    "dicom_node.errors",
    "dicom_node.events",
    "dicom_node.printable",
)
STORE = ("dicom_node.store",)
FILES = ("dicom_node.object_store.files", "dicom_node.object_store.rows")
LOGS = ("dicom_node.logs",)
SITE_KEY = ("dicom_node.sitekey",)  # of the cellar, but nothing for those who talk to the network

# Room -> what of our own it may import: a module, or everything below a package when it ends with ".*".
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "dicom_node.model": ("dicom_node", "dicom_node.events"),
    "dicom_node.dicom": ("dicom_node", "dicom_node.errors", "dicom_node.model", "ai_pipeline.images.numbers"),
    "dicom_node.errors": (),
    "dicom_node.events": (),
    "dicom_node.logs": ("dicom_node.printable",),
    "dicom_node.printable": (),
    "dicom_node.config": (
        "dicom_node.errors",
        "dicom_node.logs",
        "dicom_node.model",
        "dicom_node.printable",
        "ai_pipeline.images.limits",
    ),
    "dicom_node.sitekey": ("dicom_node.errors",),
    "dicom_node.store": (*CELLAR, *SITE_KEY),
    "dicom_node.signals": (),
    "dicom_node.environment": (),
    "dicom_node.scp": (
        *CELLAR,
        *LOGS,
        "dicom_node.signals",
        "dicom_node.inbox.header",
        "dicom_node.inbox.journal",
        "dicom_node.inbox.spool",
    ),
    "dicom_node.inbox": (
        *CELLAR,
        "dicom_node.environment",
        "ai_pipeline.images.decode",
        "ai_pipeline.errors",
        "ai_pipeline.terms",
    ),
    "dicom_node.object_store": (*CELLAR, *STORE, *SITE_KEY),
    "dicom_node.decisions": (
        *CELLAR,
        *STORE,
        *SITE_KEY,
        "dicom_node.inbox.spool",
        "dicom_node.object_store.bucket",
    ),
    "dicom_node.studies": (*CELLAR, *STORE, *FILES, "dicom_node.inbox.*", "dicom_node.jobs"),
    "dicom_node.jobs": (*CELLAR, *STORE, "ai_pipeline.images.numbers", "ai_pipeline.terms"),
    "dicom_node.jobs.worker": (
        *CELLAR,
        *STORE,
        *LOGS,
        *SITE_KEY,
        *FILES,
        "dicom_node.jobs.*",
        "dicom_node.child",
        "dicom_node.monitoring.tally",
        "dicom_node.config.loading",
        "dicom_node.results",
        "dicom_node.outbox",
        "ai_pipeline.*",
    ),
    "dicom_node.monitoring": (
        *CELLAR,
        *STORE,
        "ai_pipeline.contract",
        "ai_pipeline.errors",
        "ai_pipeline.models.*",
    ),
    "dicom_node.results": (
        "ai_pipeline.images.numbers",
        *CELLAR,
        *SITE_KEY,
        *FILES,
        "ai_pipeline.contract",
        "ai_pipeline.errors",
        "ai_pipeline.images.page",
        "ai_pipeline.images.render",
        "ai_pipeline.summary",
        "ai_pipeline.terms",
        "ai_pipeline.images.decode",
    ),
    "dicom_node.outbox": (*CELLAR, *STORE, *FILES, "dicom_node.scu", "dicom_node.scu.destination"),
    "dicom_node.scu": CELLAR,
    "dicom_node.audit_trail": (
        *CELLAR,
        *STORE,
        "dicom_node.outbox.schedule",
        "dicom_node.scu.connections",
    ),
    "dicom_node.telemetry": (*CELLAR, *STORE, "dicom_node.scu.connections", "dicom_node.scu.http"),
    "dicom_node.notifications": (
        *CELLAR,
        *STORE,
        *FILES,
        "dicom_node.outbox.schedule",
        "dicom_node.results.sr.reading",
        "dicom_node.scu.connections",
        "dicom_node.scu.http",
    ),
    "dicom_node.demo": ("dicom_node.errors", "ai_pipeline.errors", "ai_pipeline.images.decode"),
    "dicom_node.child": (*CELLAR, "dicom_node.signals"),
    "dicom_console": (
        "dicom_console.*",
        *CELLAR,
        *LOGS,
        "dicom_node.child",
        "dicom_node.services.*",
        "dicom_node.store.database",
        "dicom_node.store.faults",
        "dicom_node.store.views",
    ),
    "dicom_console.forms": (
        *CELLAR,
        "dicom_node.services",
        "dicom_node.services.entered",
        "dicom_node.store.views",
        "ai_pipeline.contract",
        "ai_pipeline.errors",
        "ai_pipeline.images.numbers",
        "ai_pipeline.pipelines",
    ),
    "ai_pipeline.accepting": ("ai_pipeline.contract",),
    "ai_pipeline.confinement": (),
    "ai_pipeline.contract": (),
    "ai_pipeline.errors": (),
    "ai_pipeline.extras": (),
    "ai_pipeline.mistakes": (),
    "ai_pipeline.summary": ("ai_pipeline.contract",),
    "ai_pipeline.terms": (),
    "ai_pipeline.pipelines": ("ai_pipeline.contract", "ai_pipeline.errors"),
    "ai_pipeline.images": (
        "ai_pipeline.summary",
        "ai_pipeline.confinement.*",
        "ai_pipeline.terms",
        "ai_pipeline.errors",
        "ai_pipeline.contract",
    ),
    "ai_pipeline.networks": ("ai_pipeline.errors",),
    "ai_pipeline.models": (
        "ai_pipeline.errors",
        "ai_pipeline.confinement.*",
        "ai_pipeline.contract",
        "ai_pipeline.mistakes",
        "ai_pipeline.images.coordinates",
        "ai_pipeline.networks.*",
    ),
    "ai_pipeline.burnin": (
        "ai_pipeline.terms",
        "ai_pipeline.errors",
        "ai_pipeline.mistakes",
        "ai_pipeline.contract",
        "ai_pipeline.despeckle.despeckler",
        "ai_pipeline.images.*",
        "ai_pipeline.models.*",
    ),
    "ai_pipeline.despeckle": (
        "ai_pipeline.errors",
        "ai_pipeline.contract",
        "ai_pipeline.models.*",
    ),
    "ai_pipeline.programs": (
        "ai_pipeline.confinement.*",
        "ai_pipeline.errors",
        "ai_pipeline.contract",
        "ai_pipeline.images.decode",
        "ai_pipeline.models.card",
    ),
    "ai_pipeline.cli": ("ai_pipeline.*",),
    "ai_pipeline.__main__": ("ai_pipeline.cli",),
    "ai_pipeline": (),
    "ai_training": ("ai_pipeline.*",),
}
# A pipeline in a folder of its own needs no line here; what it takes of another pipeline stands here.
_PIPELINE = (
    "ai_pipeline.summary",
    "ai_pipeline.terms",
    "ai_pipeline.accepting",
    "ai_pipeline.errors",
    "ai_pipeline.contract",
    "ai_pipeline.images.*",
    "ai_pipeline.models.*",
    "ai_pipeline.burnin.cleaning",
    "ai_pipeline.burnin.devices.rules",
    "ai_pipeline.burnin.tools",
)
MAY_IMPORT["ai_pipeline.ovarian"] = (
    *_PIPELINE,
    "ai_pipeline.chest.domain_gate",
    "ai_pipeline.fetal_head.outline",
)
MAY_IMPORT["ai_pipeline.chest"] = (
    *_PIPELINE,
    "ai_pipeline.burnin.find.line_network",
    "ai_pipeline.burnin.find.text",
)
for _point in entry_points(group="ai_pipeline.pipelines"):
    MAY_IMPORT.setdefault(_point.module.rpartition(".")[0], _PIPELINE)
# From outside one may look into every room; only these do.
OUTSIDE = (
    "dicom_node.node",
    "dicom_node.background",
    "dicom_node.cli",
    "dicom_node.services",
    "dicom_node.preflight",
    "dicom_node.full_disk",
    "dicom_node.processes",
    "dicom_console.views",
    "dicom_node.__main__",
)
# Whole sub-packages of the cellar are open to those who may use them at all.
OPEN = ("dicom_node.model", "dicom_node.dicom", "dicom_node.store")

# Library -> the modules (or packages) that may import it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "torch": ("ai_training", "ai_pipeline.networks", "ai_pipeline.models.engine",
              "ai_pipeline.models.store.conversion_process"),
    "onnxruntime": ("ai_pipeline.models.engine", "ai_training"),
    "orthanc_rest_client": ("dicom_node.scu.orthanc",),
    "dicomweb_client": ("dicom_node.scu.dicomweb", "dicom_node.scu.http"),
    "highdicom": ("dicom_node.results",),
    "highdicom._standard_utils": ("dicom_node.results.common.iods",),
    "dicomanonymizer": ("dicom_node.results.deidentify.profile",),
    "pynetdicom": ("dicom_node.scp", "dicom_node.scu", "dicom_node.demo"),
    "apscheduler": ("dicom_node.background",),
    "typer": ("dicom_node.cli", "ai_pipeline.cli", "ai_training"),
    "sqlalchemy": (
        "dicom_node.store", "dicom_node.studies", "dicom_node.jobs", "dicom_node.monitoring",
        "dicom_node.object_store", "dicom_node.decisions.copies",
        "dicom_node.audit_trail", "dicom_node.notifications", "dicom_node.outbox", "dicom_node.telemetry",
        "dicom_node.services", "dicom_node.preflight", "dicom_node.node", "dicom_console.views",
        "dicom_node.background",
    ),
    "alembic": ("dicom_node.store",),
    "procrastinate": ("dicom_node.store.tickets", "dicom_node.store.migrations"),
    "obstore": ("dicom_node.object_store.bucket",),
    "opentelemetry": ("dicom_node.telemetry.otlp",),
    "argon2": ("dicom_node.services.users",),
    "fastapi": ("dicom_console",),
    "starlette": ("dicom_console",),
    "jinja2": ("dicom_console", "dicom_node.notifications.message"),
    "uvicorn": ("dicom_console",),
    "prometheus_client": ("dicom_console",),
    "cryptography": ("dicom_node.sitekey",),
}  # fmt: skip
LAZY = ("torch", "onnxruntime", "rapidocr")  # imported by the function that needs them
EAGER = (
    "ai_training",
    "ai_pipeline.networks",
    "ai_pipeline.models.store.conversion_process",
    "ai_pipeline.burnin",
)
