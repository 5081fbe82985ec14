import { EntityState, error } from "@goperation/client";
import { connect } from "@goperation/client/node";

const gop = connect("http://127.0.0.1:7999");
await gop.agents.activateAgent({ id: 1 });
const { entity } = await gop.entities.createEntity({ endpoint: "sample", agentId: 1 });
console.log(entity?.endpoint, entity?.number, entity && EntityState[entity.state]);
try {
  await gop.entities.showEntity({ endpoint: "sample", number: 999 });
} catch (failed) {
  console.log(error(failed).reason);
}
