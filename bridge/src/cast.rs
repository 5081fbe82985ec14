//! CAST: a command without a result. OK means that the broker has it.

use std::time::Duration;

use goperation::{Error, Reason, from_timestamp, now_millis, v1};
use prost_types::Timestamp;
use tokio::time::timeout;

use crate::{
    Body, Bridge, BridgeConfig, Context, Kind, Message, PublishError, Route,
    error::{self, Fields},
    target::{self, Given},
};

/// How much earlier the bridge's clock may be than the caller's (contract §3).
const SKEW: Duration = Duration::from_secs(5);

/// Milliseconds of a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a finish time; `default` when none is said.
pub(crate) fn finish_time(
    fields: &mut Fields,
    config: &BridgeConfig,
    given: Option<&Timestamp>,
    default: Duration,
) -> u64 {
    let now = now_millis();
    let Some(given) = given else { return now.saturating_add(millis(default)) };
    let time = from_timestamp(given);
    if given.seconds < 0 || !(0..1_000_000_000).contains(&given.nanos) {
        fields.bad("finish_time", "must be a time after 1970");
    } else if time > now.saturating_add(millis(config.max_finish + SKEW)) {
        let limit = humantime::format_duration(config.max_finish);
        fields.bad("finish_time", format!("must be at most {limit} from now"));
    }
    time
}

/// Refuses what nobody could start in time any more.
pub(crate) fn check_not_over(finish_time: u64, id: &goperation::MessageId) -> Result<(), Error> {
    if finish_time > now_millis() {
        return Ok(());
    }
    Err(Error::new(Reason::OverFinishtime, "not sent: its finish time has passed")
        .with_message_id(id))
}

impl Bridge {
    /// Sends a command.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field, `OVER_FINISHTIME`, `QUEUE_NOT_FOUND`,
    /// `QUEUE_FULL`, `RATE_LIMITED`, `BROKER_UNAVAILABLE`, `OUTCOME_UNKNOWN`, `TOO_LARGE`
    /// (contract §3).
    pub async fn cast(
        &self,
        request: v1::CastRequest,
        context: &Context,
    ) -> Result<v1::CastResponse, Error> {
        let config = &self.inner.config;
        let mut fields = Fields::default();
        let finish_time =
            finish_time(&mut fields, config, request.finish_time.as_ref(), config.default_finish);
        let given = Given {
            target: request.target.as_ref(),
            method: &request.method,
            args: request.args.as_ref(),
            agents: &request.agents,
            message_id: &request.message_id,
        };
        let of = target::request(&mut fields, &request.request_id);
        let command = target::command(fields, &given)?;
        tracing::Span::current().record("message_id", command.id.as_str());
        check_not_over(finish_time, &command.id)?;
        let message = Message {
            kind: Kind::Cast,
            id: command.id,
            namespace: command.target.namespace(),
            method: command.method.to_string(),
            agents: command.agents,
            agent_type: command.target.broadcast_type(),
            finish_time: Some(finish_time),
            deadline: None,
            attempt: 0,
            reply_to: None,
            correlation: None,
            request: of,
            traceparent: Some(context.traceparent_or_new()),
            sent: now_millis(),
            body: Body::Object(command.args),
        };
        let route = command.target.cast_route();
        self.publish(&route, &message, context, &command.target.describe()).await?;
        Ok(v1::CastResponse { message_id: message.id.to_string() })
    }

    /// Publishes, no longer than the caller waits.
    pub(crate) async fn publish(
        &self,
        route: &Route,
        message: &Message,
        context: &Context,
        target: &str,
    ) -> Result<(), Error> {
        let publish = self.inner.transport.publish(route, message);
        let result = match context.wait() {
            Some(wait) => timeout(wait, publish)
                .await
                .unwrap_or_else(|_| Err(PublishError::Unknown("no time was left".to_owned()))),
            None => publish.await,
        };
        result.map_err(|error| error::publish(error, &message.id, target))
    }
}
