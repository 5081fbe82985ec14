import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { clients, type Clients } from "./clients.js";

/** Connects to a manager over gRPC-Web, which browsers can speak: to `url`, else the page's own. */
export function connect(url: string = globalThis.location.origin): Clients {
  return clients(createGrpcWebTransport({ baseUrl: url }));
}
