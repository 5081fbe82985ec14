//! What to do next, for each reason that a command can fail for.
//!
//! Invariant: every reason has a hint; the compiler holds the list complete.

use goperation::{Error, Reason};

/// What a command was about, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Number of the agent.
    pub(crate) agent: Option<i32>,
    /// Endpoint.
    pub(crate) endpoint: Option<String>,
    /// Number of the entity.
    pub(crate) entity: Option<i32>,
    /// It was about the entity's process.
    pub(crate) process: bool,
    /// Id of the request.
    pub(crate) request: Option<String>,
    /// Conditions that an agent had to meet.
    pub(crate) includes: Vec<String>,
    /// How it may be repeated when its outcome is not known.
    pub(crate) repeat: Repeat,
}

/// How a command may be repeated when it is not known whether it was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// As it is, after a look: it wants a state, and has no id.
    #[default]
    Look,
    /// With `--message-id`: it is done once.
    MessageId,
    /// It makes a new thing each time.
    Creates,
    /// With the same `--key`: it makes one.
    Keyed,
}

impl Subject {
    /// An agent.
    pub(crate) fn agent(id: i32) -> Self {
        Self { agent: Some(id), ..Self::default() }
    }

    /// An entity.
    pub(crate) fn entity(endpoint: &str, number: i32) -> Self {
        let endpoint = Some(endpoint.to_owned());
        Self { endpoint, entity: Some(number), ..Self::default() }
    }

    /// A request.
    pub(crate) fn request(id: &str) -> Self {
        Self { request: Some(id.to_owned()), ..Self::default() }
    }

    /// Takes from another one what is not known yet.
    pub(crate) fn fill(&mut self, other: &Self) {
        self.agent = self.agent.or(other.agent);
        self.endpoint = self.endpoint.take().or_else(|| other.endpoint.clone());
        self.entity = self.entity.or(other.entity);
        self.process |= other.process;
        self.request = self.request.take().or_else(|| other.request.clone());
        if self.includes.is_empty() {
            self.includes.clone_from(&other.includes);
        }
        if self.repeat == Repeat::Look {
            self.repeat = other.repeat;
        }
    }
}

/// Metadata of an error: the key under which a repeat is safe, where the command made it.
pub(crate) const KEY: &str = "idempotency_key";

/// Stands for an agent whose number is not known.
const NOBODY: &str = "AGENT";

/// What to do next after an error.
pub(crate) fn hint(error: &Error, subject: &Subject) -> String {
    let agent = subject
        .agent
        .map(|id| id.to_string())
        .or_else(|| ["agent_id", "agent"].iter().find_map(|key| error.metadata.get(*key).cloned()))
        .unwrap_or_else(|| NOBODY.to_owned());
    let entity = match (&subject.endpoint, subject.entity) {
        (Some(endpoint), Some(number)) => format!("{endpoint} {number}"),
        _ => "ENDPOINT NUMBER".to_owned(),
    };
    match error.reason {
        Reason::AgentNotFound => "`gop agent ls --all` lists the agents".to_owned(),
        Reason::EndpointNotFound | Reason::NamespaceNotFound if agent == NOBODY => {
            "`gop endpoint ls` lists what the fleet has; an endpoint is declared in an agent's TOML"
                .to_owned()
        }
        Reason::EndpointNotFound | Reason::NamespaceNotFound => format!(
            "`gop endpoint ls --agent {agent}` lists what the agent has; an endpoint is declared \
             in the agent's TOML"
        ),
        Reason::EntityNotFound => "`gop entity ls` lists the entities".to_owned(),
        Reason::PortNotFound => format!("`gop port ls {agent}` lists the ports"),
        Reason::CacheNotFound => "it has expired, or never was: `gop cache ls`".to_owned(),
        Reason::RequestNotFound => "`gop request ls` lists the requests; one that has ended is \
                                    kept as long as `[requests] keep` of the manager says"
            .to_owned(),
        Reason::QueueNotFound => {
            "no agent was ever registered there: `gop agent ls`, `gop queue ls`".to_owned()
        }
        Reason::AgentOffline => format!(
            "start it on its host with `gop agent --config FILE` and look with `gop agent show \
             {agent}`; a `gop cast` waits for it"
        ),
        Reason::AgentBusy => format!(
            "`gop agent show {agent}` says why; a paused one goes on with `gop agent resume {agent}`"
        ),
        Reason::AgentNotActive => format!("`gop agent activate {agent}`, then try again"),
        Reason::BrokerUnavailable => {
            format!("nothing was sent: look at the broker, then try again{}", after(error))
        }
        Reason::Unavailable if error.metadata.contains_key(KEY) => unknown(error, subject, &entity),
        Reason::Unavailable => format!(
            "nothing was done: try again{}; --server or GOP_SERVER names another manager",
            after(error)
        ),
        Reason::OverFinishtime => {
            "it was not started: send it again with more time, as --finish 1h or --timeout 60s"
                .to_owned()
        }
        Reason::OutcomeUnknown => unknown(error, subject, &entity),
        Reason::Interrupted => {
            let new = match subject.repeat {
                Repeat::MessageId => " under a new id",
                Repeat::Keyed => " under a new key",
                Repeat::Look | Repeat::Creates => "",
            };
            format!("it was begun and not ended: see what it left, then send it again{new}")
        }
        Reason::MethodFailed => match error.metadata.get("log") {
            Some(log) => format!(
                "the game did not run: its last words are above, all of them in {log} on the \
                 agent's host"
            ),
            None => {
                "the endpoint's program says so, not Goperation; its words are above".to_owned()
            }
        },
        Reason::FanoutCall => "only `gop cast` goes to many agents".to_owned(),
        Reason::InvalidArgument => "correct what is named; `--help` shows the forms".to_owned(),
        Reason::MethodNotFound if subject.process => format!(
            "its endpoint starts no processes: it needs `driver = \"process\"` in the agent's \
             TOML; `gop endpoint ls --agent {agent}` lists its methods"
        ),
        Reason::MethodNotFound => {
            format!("`gop endpoint ls --agent {agent}` lists the methods of its endpoints")
        }
        Reason::PortTaken if subject.process => format!(
            "end who has it, or let the agent take another one: `repick = true` in its TOML; `gop \
             entity status {entity}` shows the holders"
        ),
        Reason::PortTaken => format!(
            "take another port, or let the agent choose: leave out the number; `gop port ls \
             {agent}` lists the holders"
        ),
        Reason::PortsExhausted => format!(
            "free some (`gop port ls {agent}`, `gop port free {agent} PORT`) or widen \
             `ports_range` in the agent's TOML"
        ),
        Reason::PortOutOfRange => {
            format!("`gop agent show {agent}` has the ranges that it may use")
        }
        Reason::NoAgentSuits => nobody_suits(error, subject),
        Reason::AlreadyExists => "take another name".to_owned(),
        Reason::IdentityTaken => "another agent has this host and type: give this one another \
             type, or delete the record of the other with `gop agent delete AGENT --force`"
            .to_owned(),
        Reason::EntitiesRemain => format!(
            "delete them first: `gop entity ls --agent {agent}`, `gop entity delete ENDPOINT NUMBER`"
        ),
        Reason::StateRefused if subject.request.is_some() => {
            refused(error, subject.request.as_deref().unwrap_or("ID"))
        }
        Reason::StateRefused if subject.entity.is_some() => format!(
            "`gop entity status {entity}` shows its state and its process; one that runs is \
             stopped by `gop entity stop {entity}`"
        ),
        Reason::StateRefused => {
            format!("`gop agent show {agent}` has the status and its cause")
        }
        Reason::Locked => {
            format!("something else works on it: try again soon; `gop entity status {entity}`")
        }
        Reason::EtagMismatch => "it has changed meanwhile: look again, then repeat".to_owned(),
        Reason::KeyReused => {
            "take a new key for another request: one key is one request for 24 h".to_owned()
        }
        Reason::PlanChanged => {
            "look at the new plan (the same with --plan), then repeat with its hash".to_owned()
        }
        Reason::ClockSkew => "set the clock of the agent's host (NTP)".to_owned(),
        Reason::Unauthenticated => "say who you are".to_owned(),
        Reason::PermissionDenied => "ask for the right to do it".to_owned(),
        Reason::RateLimited => format!("slower: try again{}", after(error)),
        Reason::QueueFull => {
            "let the receivers catch up (`gop queue ls`), then try again".to_owned()
        }
        Reason::TooLarge => "send less, or the name of a file instead of its content".to_owned(),
        Reason::RouteNotFound | Reason::MethodNotAllowed => {
            "`/openapi.json` of the manager lists what there is".to_owned()
        }
        Reason::RequestTimeout => "send the body at once".to_owned(),
        Reason::UnsupportedMediaType => "send application/json".to_owned(),
        Reason::HostRefused => "ask by the address that the manager listens on".to_owned(),
        Reason::Internal => "the log of the role has the cause".to_owned(),
    }
}

/// What to do with a request whose state does not allow it.
fn refused(error: &Error, id: &str) -> String {
    match error.metadata.get("state").map(String::as_str) {
        Some("RUNNING" | "STOPPED") => format!(
            "`gop request watch {id}` shows its end, and `gop request cancel {id}` brings it sooner"
        ),
        Some(_) => format!(
            "it is over: `gop request show {id}` has what came of it; what is still wanted is a \
             new `gop request run`"
        ),
        None => format!(
            "`gop request show {id}` has the totals; run without --expire, the answers are kept as \
             long as the request"
        ),
    }
}

/// What to do when it is not known whether it was done.
fn unknown(error: &Error, subject: &Subject, entity: &str) -> String {
    if subject.process {
        return format!(
            "it may still be done: `gop entity status {entity}` shows it, and it may be repeated; \
             give it longer with --timeout"
        );
    }
    if let Some(key) = error.metadata.get(KEY) {
        return format!("send it again with --key {key}: it begins once and gets the first answer");
    }
    if let Some(id) = &subject.request {
        return format!("it may have been done: `gop request show {id}` tells; it may be repeated");
    }
    match (subject.repeat, error.metadata.get("message_id")) {
        (Repeat::MessageId, Some(id)) => {
            return format!(
                "send it again with --message-id {id}: it runs once and gets the stored answer"
            );
        }
        (Repeat::Creates, _) => {
            return format!(
                "it may have been created: `gop entity ls --endpoint {}` shows it; use --key so \
                 that a repeat is safe",
                subject.endpoint.as_deref().unwrap_or("ENDPOINT")
            );
        }
        (Repeat::Keyed, _) => {
            return "send it again with the same --key: it creates nothing twice and gets the \
                    first answer"
                .to_owned();
        }
        (Repeat::MessageId | Repeat::Look, _) => {}
    }
    let look = match (subject.entity, subject.agent) {
        (Some(_), _) => format!("`gop entity show {entity}`"),
        (None, Some(agent)) => format!("`gop agent show {agent}`"),
        (None, None) => "`gop entity ls`, `gop agent ls`".to_owned(),
    };
    format!(
        "it may have been done: look at it ({look}), and repeat it if needed; --timeout gives it \
         longer"
    )
}

/// What to do when no agent takes an entity. A choice knows what is on record: not why an agent
/// refused that was asked.
fn nobody_suits(error: &Error, subject: &Subject) -> String {
    let asked =
        |(key, why): (&String, &String)| key.starts_with("agent_") && Reason::parse(why).is_some();
    if error.metadata.iter().any(asked) {
        return "what each agent said is above: mend it there, wait for one that is busy, or give \
                it longer with --timeout"
            .to_owned();
    }
    let includes: String = subject
        .includes
        .iter()
        .map(|include| format!(" --include '{}'", include.replace('\'', r"'\''")))
        .collect();
    format!(
        "`gop endpoint choose {}{includes} --explain` tells of each agent why it does not suit",
        subject.endpoint.as_deref().unwrap_or("ENDPOINT")
    )
}

fn after(error: &Error) -> String {
    let rounded = error.retry_after.map(|d| d.as_secs() + u64::from(d.subsec_nanos() > 0));
    rounded.map(|seconds| format!(" after {seconds} s")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_what_was_asked_about() {
        let inactive = Error::new(Reason::AgentNotActive, "no");
        assert_eq!(hint(&inactive, &Subject::agent(3)), "`gop agent activate 3`, then try again");
        assert!(hint(&inactive.with("agent_id", 4), &Subject::default()).contains("activate 4"));
        let unknown = Error::new(Reason::OutcomeUnknown, "no").with_message_id("m1");
        let process = Subject { process: true, ..Subject::entity("db", 3) };
        assert!(hint(&unknown, &process).contains("`gop entity status db 3` shows it"));
        for &reason in Reason::ALL {
            assert!(!hint(&Error::new(reason, "no"), &Subject::default()).is_empty(), "{reason}");
        }
    }

    #[test]
    fn names_the_request_and_the_key_of_one_that_may_have_begun() {
        let subject = Subject::request("r1");
        let said = |reason| hint(&Error::new(reason, "no"), &subject);
        assert!(said(Reason::OutcomeUnknown).contains("`gop request show r1`"));
        assert!(said(Reason::Unavailable).starts_with("nothing was done"));
        for reason in [Reason::OutcomeUnknown, Reason::Unavailable] {
            let keyed = hint(&Error::new(reason, "no").with(KEY, "k1"), &Subject::default());
            assert!(keyed.starts_with("send it again with --key k1"), "{keyed}");
        }
    }

    #[test]
    fn what_requests_are_refused_for_says_what_to_do() {
        let subject = Subject::request("r1");
        let refused = |state: Option<&str>| {
            let error = Error::new(Reason::StateRefused, "no");
            let error = state.into_iter().fold(error, |error, state| error.with("state", state));
            hint(&error, &subject)
        };
        for open in ["RUNNING", "STOPPED"] {
            assert!(refused(Some(open)).contains("`gop request cancel r1` brings it sooner"));
        }
        for over in ["FINISHED", "CANCELLED", "FAILED"] {
            assert!(refused(Some(over)).contains("a new `gop request run`"));
        }
        assert!(refused(None).contains("without --expire"));

        let run = Subject { repeat: Repeat::Keyed, ..Subject::default() };
        for (reason, said) in [
            (Reason::RequestNotFound, "`gop request ls`"),
            (Reason::PlanChanged, "--plan"),
            (Reason::KeyReused, "a new key"),
            (Reason::AgentNotFound, "`gop agent ls --all`"),
            (Reason::EntityNotFound, "`gop entity ls`"),
            (Reason::EndpointNotFound, "`gop endpoint ls` lists what the fleet has"),
            (Reason::TooLarge, "send less"),
            (Reason::RateLimited, "try again after 1 s"),
            (Reason::InvalidArgument, "correct what is named"),
        ] {
            let error = Error::new(reason, "no").with_retry_after(Duration::from_secs(1));
            let hint = hint(&error, &run);
            assert!(hint.contains(said), "{reason}: {hint}");
        }
    }

    #[test]
    fn names_an_id_only_where_the_command_takes_one() {
        let unknown = Error::new(Reason::OutcomeUnknown, "no").with_message_id("m1");
        let with = |repeat, subject| hint(&unknown, &Subject { repeat, ..subject });
        let sent = with(Repeat::MessageId, Subject::agent(3));
        assert!(sent.contains("--message-id m1"), "{sent}");
        let db = Subject { endpoint: Some("db".to_owned()), ..Subject::agent(3) };
        let created = with(Repeat::Creates, db.clone());
        assert!(created.contains("`gop entity ls --endpoint db` shows it; use --key"), "{created}");
        let keyed = with(Repeat::Keyed, db.clone());
        assert!(keyed.contains("with the same --key"), "{keyed}");
        let entity = with(Repeat::Look, Subject::entity("db", 3));
        assert!(entity.contains("look at it (`gop entity show db 3`)"), "{entity}");
        let agent = with(Repeat::Look, Subject::agent(3));
        assert!(agent.contains("look at it (`gop agent show 3`)"), "{agent}");
        for said in [created, keyed, entity, agent, with(Repeat::Look, Subject::default())] {
            assert!(!said.contains("m1") && !said.contains("--message-id"), "{said}");
        }

        let interrupted = Error::new(Reason::Interrupted, "no");
        assert!(hint(&interrupted, &db).ends_with("then send it again"));
        let sent = Subject { repeat: Repeat::MessageId, ..db };
        assert!(hint(&interrupted, &sent).ends_with("under a new id"));
    }

    #[test]
    fn sends_nobody_to_a_choice_for_what_an_agent_refused() {
        let includes = vec!["cpu>=2".to_owned(), "labels.a=it's".to_owned()];
        let subject = Subject { endpoint: Some("db".to_owned()), includes, ..Subject::default() };
        let none = Error::new(Reason::NoAgentSuits, "no").with("endpoint", "db");
        let left_out = none.clone().with("agent_1", "it is UNACTIVE");
        for error in [&none, &left_out] {
            assert_eq!(
                hint(error, &subject),
                "`gop endpoint choose db --include 'cpu>=2' --include 'labels.a=it'\\''s' \
                 --explain` tells of each agent why it does not suit"
            );
        }
        let refused = hint(&left_out.with("agent_2", Reason::PortTaken), &subject);
        assert!(refused.contains("above") && !refused.contains("--explain"), "{refused}");
    }
}
