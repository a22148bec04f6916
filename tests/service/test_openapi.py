"""The API against its own description: everything is described, and what is described is so."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.service.running import ROOT

from dure.service import commands

PROBLEM = "application/problem+json"


def operations(schema):
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_is_described(shared):
    schema = shared.client("operator").get("/openapi.json").json()
    assert len(list(operations(schema))) >= 25
    for name, operation in operations(schema):
        assert operation.get("summary"), name
        assert operation.get("description"), name
        good = [r for status, r in operation["responses"].items() if status.startswith("2")]
        assert good, name
        for response in good:
            for content in response.get("content", {}).values():
                assert content.get("schema"), name
        for status, response in operation["responses"].items():
            if status[0] in "45":
                assert list(response["content"]) == [PROBLEM], (name, status)
        if operation.get("security"):
            assert "401" in operation["responses"], name
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is not None:
            assert {"400", "413", "422"} <= set(operation["responses"]), name
            assert "example" in body or "examples" in body, f"{name} has no example of its body"
        for parameter in operation.get("parameters", ()):
            assert parameter["schema"], name


def test_examples_are_good(shared):
    """What the description shows is taken, as the operator and as the agent."""
    schema = shared.client("operator").get("/openapi.json").json()
    for name, operation in operations(schema):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is None:
            continue
        for example in body["examples"].values():
            method, path = name.split(" ", 1)
            path = path.replace("{site}", "hall").replace("{job_id}", "none")
            who = "agent" if path.startswith("/api/v1/agents") else "operator"
            if path.endswith("/enrol"):
                shared.tokens["enrolling"] = shared.do(commands.make_enrolment("hall", ROOT))[1]
                who = "enrolling"
            answer = shared.client(who).request(method, path, json=example["value"])
            assert answer.status_code < 300 or answer.status_code in (404, 422), (name, answer.text)
            if answer.status_code == 422:
                assert "there is no project" in answer.text or "no member" in answer.text or "unknown member" in answer.text, (name, answer.text)


@pytest.mark.parametrize("who", ["operator", *(pytest.param(who, marks=pytest.mark.slow) for who in ("lead", "agent", "auditor", "nobody"))])
def test_schemathesis(running, who):
    """Hundreds of good and bad requests to every route; every answer is as described."""
    headers = running.headers(who) if who != "nobody" else {}
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    found: list[str] = []

    for result in schema.get_all_operations():
        operation = result.ok()
        # A sync of the agent's would wait for news.
        @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
        @given(case=st.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)))
        def one(case):
            if isinstance(case.body, dict) and "wait_s" in case.body:
                case.body["wait_s"] = 0
            if case.query and "wait_s" in case.query:
                case.query["wait_s"] = 0
            response = case.call(headers=headers)
            assert response.status_code < 500, response.text
            # What the alliance has (projects, nodes, months gone by) no schema can say: 422 is an answer to good form too.
            case.validate_response(response, headers=headers, excluded_checks=[positive_data_acceptance])
            if response.status_code >= 400:
                assert response.headers["content-type"][0] == PROBLEM
                assert response.json()["status"] == response.status_code

        try:
            one()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            found.append(f"{operation.method} {operation.path}: {str(error)[:1500]}")
    assert not found, "\n\n".join(found)
