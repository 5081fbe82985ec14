//! NOTIFY: a message for a named queue, which need not exist.

use goperation::{Error, MessageId, NotifyName, Reason, struct_to_json, v1};

use crate::{Body, Bridge, Context, Kind, Message, QueueName, Route, error::Fields};

impl Bridge {
    /// Puts a message into a notify queue.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field, `QUEUE_FULL`, `RATE_LIMITED`,
    /// `BROKER_UNAVAILABLE`, `OUTCOME_UNKNOWN`, `TOO_LARGE`.
    pub async fn notify(
        &self,
        request: v1::NotifyRequest,
        context: &Context,
    ) -> Result<v1::NotifyResponse, Error> {
        let mut fields = Fields::default();
        let queue = fields.take(NotifyName::parse("queue", &request.queue));
        let payload = fields.take(struct_to_json("payload", request.payload.as_ref()));
        let id = fields.take(MessageId::given_or_new("message_id", &request.message_id));
        if let Some(error) = fields.error() {
            return Err(error);
        }
        let (Some(queue), Some(payload), Some(id)) = (queue, payload, id) else {
            return Err(Error::new(Reason::Internal, "a bad field was not named"));
        };
        tracing::Span::current().record("message_id", id.as_str());
        let message = Message {
            traceparent: Some(context.traceparent_or_new()),
            ..Message::new(Kind::Notify, id, Body::Object(payload))
        };
        let target = format!("notify.{queue}");
        self.inner.remember([QueueName::Notify(queue.clone())]);
        self.publish(&Route::Notify(queue), &message, context, &target).await?;
        Ok(v1::NotifyResponse { message_id: message.id.to_string() })
    }
}
