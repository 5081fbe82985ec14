import { ConnectError, type Code } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

/** A field of the request that was refused. */
export interface Violation {
  /** Its path, as in the API: `ports[0].port`. */
  readonly field: string;
  /** What is wrong with it. */
  readonly description: string;
}

/** All that the manager says of a failed call. */
export interface Failure {
  /** The gRPC code. */
  readonly code: Code;
  /** Why, as one stable word: `AGENT_NOT_ACTIVE`; empty when the answer is not the manager's. */
  readonly reason: string;
  /** The same for people. */
  readonly message: string;
  /** Facts that belong to the reason. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Fields that were refused, all of them. */
  readonly violations: readonly Violation[];
  /** How long to wait before the next try; undefined when the manager does not say. */
  readonly retryAfterMs: number | undefined;
}

/** What the manager said of the failure that a call has thrown. */
export function error(thrown: unknown): Failure {
  const error = ConnectError.from(thrown);
  const info = error.findDetails(ErrorInfoSchema)[0];
  const retry = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return {
    code: error.code,
    reason: info?.reason ?? "",
    message: error.rawMessage,
    metadata: info?.metadata ?? {},
    violations: error
      .findDetails(BadRequestSchema)
      .flatMap((bad) => bad.fieldViolations)
      .map(({ field, description }) => ({ field, description })),
    retryAfterMs: retry && Number(retry.seconds) * 1000 + retry.nanos / 1e6,
  };
}
