//! Queues as an operator sees them: those that the record implies, each as the bridge sees it.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use goperation::{
    NotifyName, Result,
    v1::{IndexQueuesRequest, IndexQueuesResponse, Queue},
};

use super::App;
use crate::{
    check,
    filter::{Cell, Field, Filter, Kind, Row},
    keys,
    page::Ask,
};

const FIELDS: &[Field] =
    &[Field("name", Kind::Text), Field("depth", Kind::Number), Field("consumers", Kind::Number)];
/// Queues that are asked for at a time.
const AT_A_TIME: usize = 16;

impl Row for Queue {
    fn cell(&self, field: &str) -> Cell<'_> {
        match field {
            "name" => Cell::Text(&self.name),
            "depth" => Cell::Number(self.depth.into()),
            "consumers" => Cell::Number(self.consumers.into()),
            _ => Cell::None,
        }
    }
}

impl App {
    /// Remembers that a notify queue was used; it is listed from here on.
    pub(crate) async fn note_notify(&self, name: &str) -> Result<()> {
        let name = NotifyName::parse("queue", name)?;
        let key = keys::notify(name.as_str());
        if !self.db.keys_between(key.clone(), [key.as_slice(), &[0]].concat(), 1).await?.is_empty()
        {
            return Ok(());
        }
        let mut tx = self.db.begin();
        tx.mark(key);
        // Nothing was read, so there is nothing to conflict with.
        tx.commit().await.map(|_| ())
    }

    async fn queue_names(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::from(["dead".to_owned()]);
        for record in self.agent_records().await?.iter().filter(|r| !r.deleted && !r.reserved) {
            let (agent_type, host) = (&record.agent_type, &record.host);
            names.insert(format!("cast.{agent_type}.{host}"));
            names.insert(format!("call.{agent_type}.{host}"));
            names.insert(format!("any.{agent_type}"));
            names.insert(format!("anycall.{agent_type}"));
        }
        for key in self.db.keys(keys::NOTIFY.to_vec()).await? {
            let name = key.strip_prefix(keys::NOTIFY).unwrap_or_default();
            names.insert(format!("notify.{}", String::from_utf8_lossy(name)));
        }
        Ok(names)
    }

    async fn ask_queues(&self, names: impl IntoIterator<Item = String>) -> Result<Vec<Queue>> {
        // Collected: a stream of closures would tie the future to one lifetime.
        let asks: Vec<_> = names.into_iter().map(|name| self.link.queue(name)).collect();
        stream::iter(asks).buffered(AT_A_TIME).try_collect().await
    }

    pub(crate) async fn index_queues(&self, q: IndexQueuesRequest) -> Result<IndexQueuesResponse> {
        let ask = Ask::new(q.page_size, &q.page_token, &["queues", &q.filter]);
        let (ask, filter) = check::both(ask, Filter::parse(&q.filter, FIELDS))?;
        let names = self.queue_names().await?;
        if filter.uses("depth") || filter.uses("consumers") {
            let queues = self.ask_queues(names).await?;
            let rows = queues.into_iter().filter(|queue| queue.exists && filter.passes(queue));
            let rows = rows.map(|queue| (queue.name.clone().into_bytes(), queue));
            let page = ask.cut(rows.collect(), false);
            return Ok(IndexQueuesResponse {
                queues: page.rows,
                next_page_token: page.next,
                total_size: page.total,
            });
        }
        // Only what is on the page is asked for.
        let rows = names
            .into_iter()
            .filter(|name| filter.passes(&Queue { name: name.clone(), ..Queue::default() }))
            .map(|name| (name.clone().into_bytes(), name));
        let page = ask.cut(rows.collect(), false);
        Ok(IndexQueuesResponse {
            queues: self.ask_queues(page.rows).await?,
            next_page_token: page.next,
            total_size: page.total,
        })
    }
}
