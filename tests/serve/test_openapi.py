"""The description of the API, and random requests that follow it and that do not."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="the package schemathesis is not installed")

CHECKS = (schemathesis.checks.not_a_server_error, schemathesis.checks.response_schema_conformance)
CASES = 40
"""For each operation; `pytest -m deep` tries 1,000."""


def try_cases(operation, url, count):
    """Send random requests, and return the statuses of the answers."""
    statuses = set()

    @settings(
        max_examples=count,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(operation.as_strategy())
    def check(case):
        if isinstance(case.body, dict) and case.body.get("n"):
            case.body["n"] = min(case.body["n"], 2)  # or most of the time goes into drawing samples
        answer = case.call_and_validate(base_url=url, checks=CHECKS, timeout=60)
        statuses.add(answer.status_code)

    check()
    return statuses


@pytest.mark.parametrize("count", [CASES, pytest.param(1000, marks=pytest.mark.deep)])
def test_no_request_of_the_description_breaks_the_server(running, count):
    schema = schemathesis.openapi.from_dict(httpx.get(f"{running.url}/openapi.json").json())
    for result in schema.get_all_operations():
        operation = result.ok()
        assert try_cases(operation, running.url, count) <= {200, 400, 401, 404}, operation.label


def test_all_places_are_described(running):
    paths = httpx.get(f"{running.url}/openapi.json").json()["paths"]
    served = {route.path.replace(":path", "") for route in running.server.routes}
    assert set(paths) <= served
    assert {path for path in served if path.startswith(("/v1/", "/x/"))} <= set(paths)
