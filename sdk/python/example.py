import goperation
import grpc
from goperation import v1

with goperation.Client("127.0.0.1:7999") as gop:
    gop.agents.ActivateAgent(v1.ActivateAgentRequest(id=1))
    made = gop.entities.CreateEntity(v1.CreateEntityRequest(endpoint="sample", agent_id=1))
    print(made.entity.endpoint, made.entity.number, v1.EntityState.Name(made.entity.state))
    try:
        gop.entities.ShowEntity(v1.ShowEntityRequest(endpoint="sample", number=999))
    except grpc.RpcError as failed:
        print(goperation.error(failed).reason)
