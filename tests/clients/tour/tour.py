"""The README's tour by the Python SDK: `tour.py ADDRESS` prints what it saw."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import goperation
import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from goperation import v1

SOON = 30


def struct(**fields: int | str) -> Struct:
    made = Struct()
    made.update(fields)
    return made


def number(text: str) -> float:
    """A Struct has no integers; those who wrote it had."""
    return int(float(text)) if float(text).is_integer() else float(text)


def plain(made: Struct) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(MessageToDict(made)), parse_float=number)
    return fields


def shown(fields: object) -> str:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True)


def until(what: str, done: Callable[[], bool]) -> None:
    """What was sent is seen a moment later."""
    deadline = time.monotonic() + SOON
    while not done():
        if time.monotonic() > deadline:
            sys.exit(f"not within {SOON} s: {what}")
        time.sleep(0.05)


def state(agent: v1.Agent) -> str:
    return v1.AgentState.Name(agent.state).removeprefix("AGENT_STATE_")


def protocol(port: v1.Port) -> str:
    return v1.Protocol.Name(port.protocol).removeprefix("PROTOCOL_").lower()


def ports(reserved: Iterable[v1.Port]) -> str:
    return ",".join(f"{port.name}={port.port}/{protocol(port)}" for port in reserved)


def sample(host: str) -> v1.Target:
    return v1.Target(topic="agent.application", host=host, namespace="sample")


def agents(gop: goperation.Client) -> None:
    for agent in gop.agents.IndexAgents(v1.IndexAgentsRequest()).agents:
        online = "online" if agent.online else "offline"
        print(f"agent {agent.id} {agent.type} {agent.host} {state(agent)} {online}")
    for number in (1, 2):
        agent = gop.agents.ActivateAgent(v1.ActivateAgentRequest(id=number)).agent
        print(f"activated {number} {state(agent)}")
    for endpoint in gop.endpoints.IndexEndpoints(v1.IndexEndpointsRequest()).endpoints:
        methods = ",".join(method.name for method in endpoint.methods)
        counts = f"{endpoint.agents} agents with {endpoint.entities} entities"
        print(f"endpoint {endpoint.name} on {counts}: {methods}")


def entity(gop: goperation.Client) -> None:
    created = gop.entities.CreateEntity(
        v1.CreateEntityRequest(
            endpoint="sample",
            agent_id=1,
            ports=[
                v1.PortWish(name="game", protocol=v1.PROTOCOL_UDP),
                v1.PortWish(name="web", port=20050, protocol=v1.PROTOCOL_TCP),
            ],
        )
    )
    made = created.entity
    life = v1.EntityState.Name(made.state).removeprefix("ENTITY_STATE_")
    where = f"{made.endpoint}:{made.number} on {made.agent_id}"
    print(f"created {where} {life} {ports(made.ports)} {shown(plain(created.result))}")

    status = gop.entities.StatusEntity(v1.StatusEntityRequest(endpoint="sample", number=1))
    life = v1.EntityState.Name(status.entity.state).removeprefix("ENTITY_STATE_")
    result = plain(status.result)
    assert result["pid"] > 0, status
    print(f"status sample:1 {life} alive={shown(result['alive'])}")

    for port in gop.ports.IndexPorts(v1.IndexPortsRequest(agent_id=1)).ports:
        print(f"port {port.port}/{protocol(port)} {port.name} {port.endpoint}:{port.entity}")


def running(process: v1.EntityProcess) -> str:
    return v1.ProcessState.Name(process.state).removeprefix("PROCESS_STATE_")


def process(gop: goperation.Client) -> None:
    best = gop.endpoints.Choose(v1.ChooseRequest(name="clock", weighters=["entities"]))
    print(f"chosen for clock {','.join(str(agent.agent_id) for agent in best.candidates)}")
    made = gop.entities.CreateEntity(v1.CreateEntityRequest(endpoint="clock")).entity
    print(f"created clock:{made.number} on {made.agent_id}")
    number = made.number
    start = v1.StartEntityRequest(endpoint="clock", number=number)
    started = gop.entities.StartEntity(start).process
    print(f"started clock:1 {running(started)}")
    ask = v1.StatusEntityRequest(endpoint="clock", number=number)
    status = gop.entities.StatusEntity(ask).process
    assert status.pid == started.pid and status.memory_bytes > 0, status
    print(f"status clock:1 {running(status)} restarts={status.restarts}")
    restart = v1.RestartEntityRequest(endpoint="clock", number=number)
    again = gop.entities.RestartEntity(restart).process
    assert again.pid != started.pid, again
    print(f"restarted clock:1 {running(again)}")
    stopped = gop.entities.StopEntity(v1.StopEntityRequest(endpoint="clock", number=number)).process
    ended = stopped.last_exit
    print(f"stopped clock:1 {running(stopped)} code={ended.code} cause={ended.cause}")
    gop.entities.StartEntity(start)
    killed = gop.entities.KillEntity(v1.KillEntityRequest(endpoint="clock", number=number)).process
    ended = killed.last_exit
    print(f"killed clock:1 {running(killed)} signal={ended.signal} cause={ended.cause}")
    gop.entities.DeleteEntity(v1.DeleteEntityRequest(endpoint="clock", number=number))
    print("deleted clock:1")


def said(gop: goperation.Client, host: str, args: Struct, last: str) -> str:
    call = v1.CallRequest(target=sample(host), method="said", args=args)
    until(f"{last} on {host}", lambda: gop.bridge.Call(call).result["last"] == last)
    result = plain(gop.bridge.Call(call).result)
    return f"{result['lines']} {result['last']}"


def messages(gop: goperation.Client) -> None:
    echo = v1.CallRequest(target=sample("dev1"), method="echo", args=struct(x=1))
    called = gop.bridge.Call(echo)
    result = plain(called.result)
    assert result["message_id"] == called.message_id, called
    print(f"called {result['endpoint']}.{result['method']} {shown(result['args'])}")

    hello = struct(entity=1, text="hello")
    sent = gop.bridge.Cast(v1.CastRequest(target=sample("dev1"), method="say", args=hello))
    print(f"cast to sample:1 as {sent.message_id}")
    print(f"said in sample:1 {said(gop, 'dev1', struct(entity=1), 'hello')}")

    everybody = v1.Target(topic="agent", fanout=True, namespace="sample")
    everyone = struct(text="everyone")
    sent = gop.bridge.Cast(v1.CastRequest(target=everybody, method="say", args=everyone))
    print(f"cast to all as {sent.message_id}")
    for host in ("dev1", "dev2"):
        print(f"said on {host} {said(gop, host, struct(), 'everyone')}")

    sent_news = gop.bridge.Notify(v1.NotifyRequest(queue="news", payload=struct(n=1)))
    print(f"notified news as {sent_news.message_id}")
    stream = gop.bridge.Receive(v1.ReceiveRequest(queue="news"), timeout=SOON)
    message = next(iter(stream))
    token = v1.AcknowledgeRequest(queue="news", ack_tokens=[message.ack_token])
    assert not gop.bridge.Acknowledge(token).unknown
    assert not message.redelivered, message
    print(f"received {message.message_id} {shown(plain(message.payload))}")
    stream.cancel()
    queues(gop)


def queues(gop: goperation.Client) -> None:
    def index() -> list[v1.Queue]:
        return list(gop.bridge.IndexQueues(v1.IndexQueuesRequest()).queues)

    # The stream has ended here, but the manager sees that a moment later.
    at_rest = ("notify.news", 0)
    until("news is at rest", lambda: at_rest in [(q.name, q.consumers) for q in index()])
    for queue in index():
        assert queue.exists, queue
        print(f"queue {queue.name} {queue.depth} {queue.consumers}")


def requests(gop: goperation.Client) -> None:
    everybody = v1.RequestSelection(all=True)
    create = v1.CreateRequestRequest(
        namespace="sample", method="echo", args=struct(x=1), on=everybody
    )
    begun = gop.requests.CreateRequest(create).request
    name = f"{begun.namespace}.{begun.method}"
    print(f"requested {name} of {begun.counts.agents} agents")
    answers: dict[int, str] = {}
    ended = v1.Request()
    # The stream ends with the summary.
    watch = v1.WatchRequestRequest(id=begun.id)
    for event in gop.requests.WatchRequest(watch, timeout=SOON):
        if event.HasField("summary"):
            ended = event.summary
        elif event.agent.state == v1.RESPONSE_STATE_SUCCEEDED:
            answers[event.agent.agent_id] = shown(plain(event.agent.result)["args"])
    for agent, args in sorted(answers.items()):
        print(f"answered {agent} {args}")
    life = v1.RequestState.Name(ended.state).removeprefix("REQUEST_STATE_")
    counts = ended.counts
    how = f"succeeded={counts.succeeded} failed={counts.failed} silent={counts.silent}"
    print(f"request {name} {life} {how}")


def back(gop: goperation.Client) -> None:
    freed = gop.ports.FreePorts(v1.FreePortsRequest(agent_id=1, ports=[20050]))
    assert not freed.unknown, freed
    print(f"freed {ports(freed.freed)}")
    deleted = gop.entities.DeleteEntity(v1.DeleteEntityRequest(endpoint="sample", number=1))
    print(f"deleted sample:1 {shown(plain(deleted.result))}")
    agent = gop.agents.DeleteAgent(v1.DeleteAgentRequest(id=2)).agent
    print(f"deleted agent 2 {state(agent)}")
    for agent in gop.agents.IndexAgents(v1.IndexAgentsRequest(show_deleted=True)).agents:
        print(f"agent {agent.id} {state(agent)}")
    off = v1.ActivateAgentRequest(id=1, state=v1.AGENT_STATE_UNACTIVE)
    print(f"activated 1 {state(gop.agents.ActivateAgent(off).agent)}")
    try:
        gop.entities.CreateEntity(v1.CreateEntityRequest(endpoint="sample", agent_id=1))
    except grpc.RpcError as failed:
        error = goperation.error(failed)
        print(f"refused {error.code.name} {error.reason}: {error.message}")
    else:
        sys.exit("it was not refused")


with goperation.Client(sys.argv[1]) as client:
    agents(client)
    entity(client)
    process(client)
    messages(client)
    requests(client)
    back(client)
