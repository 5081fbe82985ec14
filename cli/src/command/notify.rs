//! `gop notify` and `gop receive`.
//!
//! Invariant: a message is acknowledged only after it was printed; one that was not is given
//! back to its queue when the stream ends.

use goperation::v1::{AcknowledgeRequest, NotifyRequest, ReceiveRequest, ReceiveResponse};
use serde_json::Value;
use tokio::time::timeout;
use tonic::Streaming;

use crate::{
    args::{Notify, Receive},
    client::Client,
    error::Error,
    output::{Output, object, time},
};

/// Unacknowledged messages at a time, when more than one is wanted.
const WINDOW: i32 = 16;

/// Puts a message into a queue.
pub(crate) async fn notify(client: &Client, output: Output, notify: Notify) -> Result<(), Error> {
    let request = NotifyRequest {
        queue: notify.queue,
        payload: Some(notify.args.to_struct()?),
        message_id: notify.message_id,
    };
    let answer = client.bridge().notify(client.request(request)).await?.into_inner();
    output.answer(&answer, |a| format!("sent {}", a.message_id))
}

/// Takes messages from a queue.
pub(crate) async fn receive(
    client: &Client,
    output: Output,
    receive: Receive,
) -> Result<(), Error> {
    let request = ReceiveRequest {
        queue: receive.queue.clone(),
        // Not one more than wanted: what is taken and not printed would come again as redelivered.
        max_unacknowledged: i32::try_from(receive.count)
            .ok()
            .filter(|&count| !receive.follow && count < WINDOW)
            .unwrap_or(WINDOW),
        auto_acknowledge: false,
    };
    let late = |seen: u32| {
        let waited = humantime::format_duration(client.timeout());
        Error::Failed(format!(
            "no message in `{}` within {waited}; {seen} received (--timeout waits longer, --follow \
             for ever)",
            receive.queue
        ))
    };
    // The stream has no deadline of its own: each message has.
    let mut bridge = client.bridge();
    let mut stream = timeout(client.timeout(), bridge.receive(request))
        .await
        .map_err(|_| late(0))??
        .into_inner();
    let mut seen = 0;
    while receive.follow || seen < receive.count {
        let message = if receive.follow {
            tokio::select! {
                message = next(&mut stream) => message?,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        } else {
            timeout(client.timeout(), next(&mut stream)).await.map_err(|_| late(seen))??
        };
        output.line(&message, line)?;
        acknowledge(client, &receive.queue, message.ack_token).await?;
        seen = seen.saturating_add(1);
    }
    Ok(())
}

async fn next(stream: &mut Streaming<ReceiveResponse>) -> Result<ReceiveResponse, Error> {
    stream
        .message()
        .await?
        .ok_or_else(|| Error::Failed("the bridge has ended the stream: it is stopping".to_owned()))
}

async fn acknowledge(client: &Client, queue: &str, token: String) -> Result<(), Error> {
    let request =
        AcknowledgeRequest { queue: queue.to_owned(), ack_tokens: vec![token], requeue: false };
    let answer = client.bridge().acknowledge(client.request(request)).await?.into_inner();
    if answer.unknown.is_empty() {
        Ok(())
    } else {
        Err(Error::Failed("the last message could not be acknowledged: it comes again".to_owned()))
    }
}

fn line(message: &ReceiveResponse) -> String {
    let again = if message.redelivered { " (again)" } else { "" };
    format!(
        "{}  {}  {}{again}",
        time(message.send_time.as_ref()),
        message.message_id,
        Value::Object(object(message.payload.as_ref()))
    )
}
