import { createClient, type Client, type Transport } from "@connectrpc/connect";
import { AgentService } from "./gen/goperation/v1/agent_pb.js";
import { BridgeService } from "./gen/goperation/v1/bridge_pb.js";
import { CacheService } from "./gen/goperation/v1/cache_pb.js";
import { EndpointService } from "./gen/goperation/v1/endpoint_pb.js";
import { EntityService } from "./gen/goperation/v1/entity_pb.js";
import { PortService } from "./gen/goperation/v1/port_pb.js";
import { RequestService } from "./gen/goperation/v1/request_pb.js";

/** One typed client for each service of the manager. */
export interface Clients {
  readonly agents: Client<typeof AgentService>;
  readonly bridge: Client<typeof BridgeService>;
  readonly caches: Client<typeof CacheService>;
  readonly endpoints: Client<typeof EndpointService>;
  readonly entities: Client<typeof EntityService>;
  readonly ports: Client<typeof PortService>;
  readonly requests: Client<typeof RequestService>;
}

/** The clients over a transport of your own; `connect` of `./node` and `./web` make one for you. */
export function clients(transport: Transport): Clients {
  return {
    agents: createClient(AgentService, transport),
    bridge: createClient(BridgeService, transport),
    caches: createClient(CacheService, transport),
    endpoints: createClient(EndpointService, transport),
    entities: createClient(EntityService, transport),
    ports: createClient(PortService, transport),
    requests: createClient(RequestService, transport),
  };
}
