"""No request makes the REST API fail: by schemathesis, from its own description."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound

schemathesis = pytest.importorskip("schemathesis", reason="of the extra test: make test installs it")
EXAMPLES = 8  # of each operation


def test_no_request_that_the_schema_allows_makes_it_fail(console: ConsoleLab, inbox: Inbox) -> None:
    """By schemathesis: what the schema allows, and what it does not."""
    inbox.receive(ultrasound("one"))
    inbox.settle()
    token = users.add_token(console.settings, UserRole.ADMIN.value, "a test", 1)
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", console.app, headers=headers)
    asked: dict[int, int] = {}
    operations = [one.ok() for one in schema.get_all_operations()]
    assert len(operations) > 12
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy())
        def try_it(case: Any) -> None:
            answer = case.call(headers=headers)
            asked[answer.status_code] = asked.get(answer.status_code, 0) + 1
            case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])

        try_it()
    assert asked[200] > 10
