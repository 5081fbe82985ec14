//! `gop agent upgrade` of one agent.

use goperation::{
    MessageId, now_millis, to_timestamp,
    v1::{AgentUpgrade, UpgradeAgentRequest},
};
use tonic::Request;

use crate::{
    args::Upgrade,
    client::Client,
    error::Error,
    hint::{Repeat, Subject},
    output::{Output, fields, time},
};

/// Upgrades an agent and waits for its end.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    agent: i32,
    file: String,
    args: Upgrade,
) -> Result<(), Error> {
    let id = MessageId::given_or_new("--message-id", &args.message_id)
        .map_err(|error| Error::Usage(error.message))?;
    let finish = args.finish.map(|finish| {
        to_timestamp(now_millis().saturating_add(u64::try_from(finish.as_millis()).unwrap_or(0)))
    });
    let mut request = Request::new(UpgradeAgentRequest {
        id: agent,
        file,
        message_id: id.to_string(),
        finish_time: finish,
    });
    request.set_timeout(args.wait);
    let answer = client.agents().upgrade_agent(request).await.map_err(|status| {
        let mut error = goperation::Error::from_status(&status);
        // Cut off on the way, it does not say under which id a repeat is safe.
        error.metadata.entry("message_id".to_owned()).or_insert_with(|| id.to_string());
        let subject = Subject::agent(agent);
        Error::from(error).about(&Subject { repeat: Repeat::MessageId, ..subject })
    })?;
    output.answer(&answer.into_inner(), |a| a.upgrade.as_ref().map(details).unwrap_or_default())
}

fn details(upgrade: &AgentUpgrade) -> String {
    fields([
        ("upgrade", state(upgrade)),
        ("file", upgrade.file.clone()),
        ("began", time(upgrade.begin_time.as_ref())),
        ("ended", time(upgrade.end_time.as_ref())),
        ("command", upgrade.exit.clone()),
        ("log", upgrade.log.clone()),
        ("version before", upgrade.version_before.clone()),
        ("version after", upgrade.version_after.clone()),
        ("message id", upgrade.message_id.clone()),
    ])
}

/// An upgrade in a few words, for the listing of an agent.
pub(crate) fn summary(upgrade: &AgentUpgrade) -> String {
    let mut text = state(upgrade);
    if !upgrade.file.is_empty() {
        text = format!("{text} {}", upgrade.file);
    }
    if !upgrade.exit.is_empty() {
        text = format!("{text}, {}", upgrade.exit);
    }
    format!("{text}, {} -> {}", upgrade.version_before, upgrade.version_after)
}

fn state(upgrade: &AgentUpgrade) -> String {
    let name = upgrade.state().as_str_name();
    name.strip_prefix("UPGRADE_STATE_").unwrap_or(name).to_owned()
}
