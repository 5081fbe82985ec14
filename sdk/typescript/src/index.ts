export * from "./gen/index.js";
export { clients, type Clients } from "./clients.js";
export { error, type Failure, type Violation } from "./error.js";
