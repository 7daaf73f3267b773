//! The HTTP API, as far as a load run needs it: submit a batch, and ask the record what became of it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::spec::Group;

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// Items of one page.
const PAGE_LEN: u32 = 1_000;

/// A client of all gateways.
pub struct Api {
    client: reqwest::Client,
}

impl Api {
    /// A client whose connections are kept.
    pub fn new() -> Result<Self> {
        Ok(Self { client: reqwest::Client::builder().timeout(DEADLINE).build()? })
    }

    /// Submits a batch; returns its id.
    pub async fn submit(&self, base: &str, token: &str, group: &Group) -> Result<String> {
        let items: Vec<String> = (0..group.items).map(|i| format!("item-{i:06}")).collect();
        let mut body = json!({
            "action": "wait", "cluster": "local", "items": items, "parameters": {"duration_ms": group.item_ms},
        });
        if let Some(lanes) = group.lanes {
            body["concurrency"] = lanes.into();
        }
        let request = self.client.post(format!("{base}/api/v1/tasks")).json(&body);
        let body = answer(request.bearer_auth(token)).await.context("submit")?;
        let id = body["task_id"].as_str();
        Ok(id.with_context(|| format!("no task id in {body}"))?.to_owned())
    }

    /// The record must agree with what the sockets saw: all items succeeded. With `named` each one is looked at.
    pub async fn check_record(
        &self,
        base: &str,
        token: &str,
        task: &str,
        items: u32,
        named: bool,
    ) -> Result<()> {
        let address = format!("{base}/api/v1/tasks/{task}");
        let body = self.get(&address, token).await?;
        ensure!(body["succeeded"] == items, "the record says {body}, the sockets saw {items} successes");
        if named {
            let recorded = self.count_items(&address, token).await?;
            ensure!(recorded == items, "the record has {recorded} results of {items}");
        }
        Ok(())
    }

    async fn count_items(&self, task: &str, token: &str) -> Result<u32> {
        let (mut count, mut after, mut last) = (0, String::new(), None);
        loop {
            let page = format!("{task}/items?state=succeeded&limit={PAGE_LEN}{after}");
            let body = self.get(&page, token).await?;
            for item in body["items"].as_array().context("no items")? {
                let index = item["index"].as_u64();
                ensure!(index > last, "item {index:?} after {last:?} in the record");
                last = index;
                count += 1;
            }
            match body["next"].as_u64() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(count),
            }
        }
    }

    async fn get(&self, address: &str, token: &str) -> Result<Value> {
        answer(self.client.get(address).bearer_auth(token)).await.with_context(|| address.to_owned())
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Value> {
    let answer = request.send().await?;
    let (status, body) = (answer.status(), answer.json::<Value>().await?);
    if !status.is_success() {
        bail!("{status}: {body}");
    }
    Ok(body)
}
