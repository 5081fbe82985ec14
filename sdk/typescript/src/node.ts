import { createGrpcTransport } from "@connectrpc/connect-node";
import { clients, type Clients } from "./clients.js";

/** Connects to a manager over gRPC: to `url`, else `$GOP_SERVER`, else the manager on this host. */
export function connect(url = process.env["GOP_SERVER"] ?? "http://127.0.0.1:7999"): Clients {
  return clients(createGrpcTransport({ baseUrl: url }));
}
