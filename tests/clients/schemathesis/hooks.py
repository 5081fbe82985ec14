"""What schemathesis does beside its own checks.

Every answer counts; a 5xx has to be one of the contract's; no answer has a field that the document
does not have; and the fleet that the test has started stays there. Half of the requests and of the
agents that are named are such that there are.
"""

import atexit
import json
import os
from collections import Counter
from pathlib import Path
from zlib import crc32

import schemathesis

# Agents that stay as they are, and what would change that.
KEPT = {"1", "2"}
STOPPING = {"AgentService_DeleteAgent", "AgentService_PauseAgent", "AgentService_UpgradeAgent"}

# An RPC that waits for what never comes ends after this.
TIMEOUT = "1S"

# Requests that the test has begun: one that has ended and stays, some that have stopped, and some
# to be removed.
_requests = json.loads(os.environ["SCHEMATHESIS_REQUESTS"])

_statuses = Counter()
_succeeded = set()


@atexit.register
def _tell():
    told = {
        "answers": _statuses.total(),
        "statuses": _statuses,
        "succeeded": sorted(_succeeded),
    }
    Path(os.environ["SCHEMATHESIS_TOLD"]).write_text(json.dumps(told), encoding="utf-8")


def _id(case):
    return case.operation.definition.raw["operationId"]


def _tighten(document, schema, seen):
    """Refuses, in what answers have, every field that is not declared."""
    if isinstance(schema, list):
        for item in schema:
            _tighten(document, item, seen)
        return
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in seen:
            return
        seen.add(reference)
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        _tighten(document, target, seen)
        return
    if schema.get("type") == "object" and "properties" in schema and "@type" not in schema["properties"]:
        schema.setdefault("additionalProperties", False)
    for value in schema.values():
        _tighten(document, value, seen)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    seen = set()
    for item in raw_schema["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                _tighten(raw_schema, response, seen)


@schemathesis.hook
def filter_case(context, case):
    # What deletes or stops the agents of the test leaves nothing to ask.
    number = str((case.path_parameters or {}).get("id"))
    return not (_id(case) in STOPPING and number in KEPT)


def _is_chosen(value):
    """Whether that is one of the half: the same at every run."""
    return crc32(repr(value).encode()) % 2 == 0


def _name_a_request(case):
    name = case.path_parameters.get("id")
    if not _is_chosen(name):
        return
    operation = _id(case)
    if operation == "RequestService_DeleteRequest":
        known = _requests["removed"].pop() if _requests["removed"] else name
    elif operation in {"RequestService_CancelRequest", "RequestService_ResumeRequest"}:
        known = _requests["stopped"][operation == "RequestService_CancelRequest"]
    else:
        known = _requests["ended"]
    case.path_parameters = {**case.path_parameters, "id": known}


def _name_agents(case):
    on = case.body["on"]
    if _id(case) == "AgentService_UpgradeAgents":
        # The others stay as they are.
        case.body = {**case.body, "on": {"agents": "3"}}
    elif _is_chosen(on):
        case.body = {**case.body, "on": {"agents": "1-2"}}


@schemathesis.hook
def before_call(context, case, kwargs):
    case.headers = {**(case.headers or {}), "Grpc-Timeout": TIMEOUT}
    if case.operation.path.startswith("/v1/requests/{id}"):
        _name_a_request(case)
    if isinstance(case.body, dict) and isinstance(case.body.get("on"), dict):
        _name_agents(case)
    if _id(case) == "RequestService_WatchRequest":
        # It would go on until its time is over.
        case.query = {name: value for name, value in (case.query or {}).items() if name != "follow"}


@schemathesis.hook
def after_call(context, case, response):
    _statuses[response.status_code] += 1
    # The operation itself; the coverage phase asks with other methods too.
    if response.status_code < 300 and case.method.lower() == case.operation.method.lower():
        _succeeded.add(_id(case))


@schemathesis.check
def server_errors_are_typed(ctx, response, case):
    """A 5xx is JSON with a reason that the contract has for that status."""
    if response.status_code < 500:
        return
    document = case.operation.schema.raw_schema
    component = document["components"]["responses"].get(f"Error{response.status_code}")
    assert component is not None, f"{response.status_code} is no status of the contract"
    reasons = component["content"]["application/json"]["schema"]["allOf"][1]["properties"]["reason"]["enum"]
    reason = response.json().get("reason")
    assert reason in reasons, f"{reason} is no reason for {response.status_code}"
    assert reason != "INTERNAL", f"a defect: {response.text}"
