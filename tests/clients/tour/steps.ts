// The README's tour in TypeScript: over gRPC in Node.js (tour.ts), over gRPC-Web in a browser
// (tour-web.ts).

import { Code } from "@connectrpc/connect";
import type { JsonObject } from "@bufbuild/protobuf";
import {
  AgentState,
  EntityState,
  ProcessState,
  Protocol,
  RequestState,
  ResponseState,
  error,
  type Agent,
  type Clients,
  type EntityProcess,
  type Port,
  type Request,
} from "@goperation/client";

const SOON = 30_000;

const state = (agent: Agent | undefined): string => AgentState[agent?.state ?? 0] ?? "";
const protocol = (port: Port): string => (Protocol[port.protocol] ?? "").toLowerCase();
const shown = (ports: Port[]): string =>
  ports.map((port) => `${port.name}=${port.port}/${protocol(port)}`).join(",");
const sample = (host: string) => ({ topic: "agent.application", host, namespace: "sample" });

function check(fine: boolean, what: unknown): void {
  if (!fine) throw new Error(`not as it should be: ${JSON.stringify(what)}`);
}

/** What was sent is seen a moment later. */
async function until<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + SOON;
  for (;;) {
    const seen = await look();
    if (seen !== undefined) return seen;
    if (Date.now() > deadline) throw new Error(`not within ${SOON} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** Does all the steps and answers what it saw. */
export async function tour(gop: Clients): Promise<string> {
  const lines: string[] = [];
  const say = (line: string) => lines.push(line);
  await agents(gop, say);
  await entity(gop, say);
  await process(gop, say);
  await messages(gop, say);
  await requests(gop, say);
  await back(gop, say);
  return lines.join("\n");
}

type Say = (line: string) => void;

async function agents(gop: Clients, say: Say): Promise<void> {
  for (const agent of (await gop.agents.indexAgents({})).agents) {
    const online = agent.online ? "online" : "offline";
    say(`agent ${agent.id} ${agent.type} ${agent.host} ${state(agent)} ${online}`);
  }
  for (const id of [1, 2]) {
    say(`activated ${id} ${state((await gop.agents.activateAgent({ id })).agent)}`);
  }
  for (const endpoint of (await gop.endpoints.indexEndpoints({})).endpoints) {
    const methods = endpoint.methods.map((method) => method.name).join(",");
    const counts = `${endpoint.agents} agents with ${endpoint.entities} entities`;
    say(`endpoint ${endpoint.name} on ${counts}: ${methods}`);
  }
}

async function entity(gop: Clients, say: Say): Promise<void> {
  const created = await gop.entities.createEntity({
    endpoint: "sample",
    agentId: 1,
    ports: [
      { name: "game", protocol: Protocol.UDP },
      { name: "web", port: 20050, protocol: Protocol.TCP },
    ],
  });
  const made = created.entity;
  if (!made) throw new Error("no entity");
  const where = `${made.endpoint}:${made.number} on ${made.agentId}`;
  const result = JSON.stringify(created.result);
  say(`created ${where} ${EntityState[made.state]} ${shown(made.ports)} ${result}`);

  const status = await gop.entities.statusEntity({ endpoint: "sample", number: 1 });
  check(typeof status.result?.["pid"] === "number", status.result);
  const life = EntityState[status.entity?.state ?? 0];
  say(`status sample:1 ${life} alive=${status.result?.["alive"]}`);

  for (const port of (await gop.ports.indexPorts({ agentId: 1 })).ports) {
    const holder = `${port.endpoint}:${port.entity}`;
    say(`port ${port.port}/${protocol(port)} ${port.name} ${holder}`);
  }
}

async function process(gop: Clients, say: Say): Promise<void> {
  const running = (it: EntityProcess | undefined) => ProcessState[it?.state ?? 0];
  const best = await gop.endpoints.choose({ name: "clock", weighters: ["entities"] });
  say(`chosen for clock ${best.candidates.map((agent) => agent.agentId).join(",")}`);
  const { entity } = await gop.entities.createEntity({ endpoint: "clock" });
  say(`created clock:${entity?.number} on ${entity?.agentId}`);
  const name = { endpoint: "clock", number: entity?.number ?? 0 };
  const { process: started } = await gop.entities.startEntity(name);
  say(`started clock:1 ${running(started)}`);
  const { process: status } = await gop.entities.statusEntity(name);
  check(status?.pid === started?.pid && (status?.memoryBytes ?? 0n) > 0n, status?.pid);
  say(`status clock:1 ${running(status)} restarts=${status?.restarts}`);
  const { process: again } = await gop.entities.restartEntity(name);
  check(again?.pid !== started?.pid, again?.pid);
  say(`restarted clock:1 ${running(again)}`);
  const { process: stopped } = await gop.entities.stopEntity(name);
  let ended = stopped?.lastExit;
  say(`stopped clock:1 ${running(stopped)} code=${ended?.code} cause=${ended?.cause}`);
  await gop.entities.startEntity(name);
  const { process: killed } = await gop.entities.killEntity(name);
  ended = killed?.lastExit;
  say(`killed clock:1 ${running(killed)} signal=${ended?.signal} cause=${ended?.cause}`);
  await gop.entities.deleteEntity(name);
  say("deleted clock:1");
}

async function said(gop: Clients, host: string, args: JsonObject, last: string): Promise<string> {
  const result = await until(`${last} on ${host}`, async () => {
    const call = await gop.bridge.call({ target: sample(host), method: "said", args });
    return call.result?.["last"] === last ? call.result : undefined;
  });
  return `${result["lines"]} ${result["last"]}`;
}

async function messages(gop: Clients, say: Say): Promise<void> {
  const echo = { target: sample("dev1"), method: "echo", args: { x: 1 } };
  const { messageId, result } = await gop.bridge.call(echo);
  check(result?.["message_id"] === messageId, result);
  say(`called ${result?.["endpoint"]}.${result?.["method"]} ${JSON.stringify(result?.["args"])}`);

  const hello = { target: sample("dev1"), method: "say", args: { entity: 1, text: "hello" } };
  say(`cast to sample:1 as ${(await gop.bridge.cast(hello)).messageId}`);
  say(`said in sample:1 ${await said(gop, "dev1", { entity: 1 }, "hello")}`);

  const everybody = { topic: "agent", fanout: true, namespace: "sample" };
  const all = { target: everybody, method: "say", args: { text: "everyone" } };
  say(`cast to all as ${(await gop.bridge.cast(all)).messageId}`);
  for (const host of ["dev1", "dev2"]) {
    say(`said on ${host} ${await said(gop, host, {}, "everyone")}`);
  }

  const sent = await gop.bridge.notify({ queue: "news", payload: { n: 1 } });
  say(`notified news as ${sent.messageId}`);
  // Leaving the loop does not end the stream; this does.
  const stop = new AbortController();
  for await (const message of gop.bridge.receive({ queue: "news" }, { signal: stop.signal })) {
    const ackTokens = [message.ackToken];
    const { unknown } = await gop.bridge.acknowledge({ queue: "news", ackTokens });
    check(unknown.length === 0 && !message.redelivered, message.messageId);
    say(`received ${message.messageId} ${JSON.stringify(message.payload)}`);
    break;
  }
  stop.abort();
  // The stream has ended here, but the manager sees that a moment later.
  const queues = await until("news is at rest", async () => {
    const { queues } = await gop.bridge.indexQueues({});
    const rest = queues.some((queue) => queue.name === "notify.news" && queue.consumers === 0);
    return rest ? queues : undefined;
  });
  for (const queue of queues) {
    check(queue.exists, queue.name);
    say(`queue ${queue.name} ${queue.depth} ${queue.consumers}`);
  }
}

async function requests(gop: Clients, say: Say): Promise<void> {
  const create = { namespace: "sample", method: "echo", args: { x: 1 }, on: { all: true } };
  const { request } = await gop.requests.createRequest(create);
  const name = `${request?.namespace}.${request?.method}`;
  say(`requested ${name} of ${request?.counts?.agents} agents`);
  const answers: [number, string][] = [];
  let ended: Request | undefined;
  // The stream ends with the summary.
  for await (const { event } of gop.requests.watchRequest({ id: request?.id ?? "" })) {
    if (event.case === "summary") {
      ended = event.value;
    } else if (event.case === "agent" && event.value.state === ResponseState.SUCCEEDED) {
      answers.push([event.value.agentId, JSON.stringify(event.value.result?.["args"])]);
    }
  }
  answers.sort(([a], [b]) => a - b);
  for (const [agent, args] of answers) say(`answered ${agent} ${args}`);
  const counts = ended?.counts;
  const how = `succeeded=${counts?.succeeded} failed=${counts?.failed} silent=${counts?.silent}`;
  say(`request ${name} ${RequestState[ended?.state ?? 0]} ${how}`);
}

async function back(gop: Clients, say: Say): Promise<void> {
  const { freed, unknown } = await gop.ports.freePorts({ agentId: 1, ports: [20050] });
  check(unknown.length === 0, unknown);
  say(`freed ${shown(freed)}`);
  const deleted = await gop.entities.deleteEntity({ endpoint: "sample", number: 1 });
  say(`deleted sample:1 ${JSON.stringify(deleted.result)}`);
  say(`deleted agent 2 ${state((await gop.agents.deleteAgent({ id: 2 })).agent)}`);
  for (const agent of (await gop.agents.indexAgents({ showDeleted: true })).agents) {
    say(`agent ${agent.id} ${state(agent)}`);
  }
  const off = { id: 1, state: AgentState.UNACTIVE };
  say(`activated 1 ${state((await gop.agents.activateAgent(off)).agent)}`);
  try {
    await gop.entities.createEntity({ endpoint: "sample", agentId: 1 });
  } catch (thrown) {
    const { code, reason, message } = error(thrown);
    // The name of a gRPC code as the other clients write it.
    const name = (Code[code] ?? "").replace(/(?<=.)[A-Z]/g, "_$&").toUpperCase();
    say(`refused ${name} ${reason}: ${message}`);
    return;
  }
  throw new Error("it was not refused");
}
