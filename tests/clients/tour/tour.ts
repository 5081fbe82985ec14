// The README's tour by the TypeScript SDK in Node.js: `tour.ts ADDRESS` prints what it saw.

import { connect } from "@goperation/client/node";
import { tour } from "./steps.js";

console.log(await tour(connect(`http://${process.argv[2]}`)));
