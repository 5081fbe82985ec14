// The README's tour over gRPC-Web, for a page: `tour(ADDRESS)` answers what it saw.

import { connect } from "@goperation/client/web";
import { tour } from "./steps.js";

Object.assign(globalThis, { tour: (address: string) => tour(connect(`http://${address}`)) });
