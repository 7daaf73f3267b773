//! What users do all along: they submit, say the same twice, cancel, pause and resume, and wait for the end.

use std::time::Duration;

use milepost::client::{Api, ApiError};
use milepost::store::Control;
use milepost::task::{Draft, TaskId};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::watchers::User;
use crate::world::NODES;

/// Calls that must come through are tried for so long.
const STUBBORN: Duration = Duration::from_secs(90);

/// One user at work.
pub struct Worklife {
    api: Api,
    name: String,
    dice: Dice,
    submitted: u64,
}

impl Worklife {
    /// A user at work as the seed says.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn new(user: &User, seed: u64) -> anyhow::Result<Self> {
        let api =
            Api::new(&user.servers, Some(user.token.clone())).map_err(|error| anyhow::anyhow!(error))?;
        let dice = Dice::new(seed, &user.name);
        Ok(Self { api: api.noting(user.history.clone()), name: user.name.clone(), dice, submitted: 0 })
    }

    /// Works until told to stop.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow_and_update() {
            let think = Duration::from_millis(self.dice.between(300, 2_500));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(think) => {}
            }
            if let Some(task) = self.submit().await {
                self.follow(task).await;
            }
        }
    }

    fn draft(&mut self) -> Draft {
        let first = self.dice.index(NODES);
        let len = 4 + self.dice.index(16);
        let mut items: Vec<String> =
            (0..len).map(|n| format!("node-{:03}", (first + n) % NODES + 1)).collect();
        if self.dice.percent(20) {
            items.push("node-nowhere".to_owned());
        }
        let labels = json!({ format!("chaos/{}", self.name): self.submitted.to_string() });
        Draft {
            action: "label".into(),
            cluster: "sim".into(),
            items,
            parameters: json!({ "labels": labels, "overwrite": true }),
            concurrency: Some(u16::try_from(self.dice.between(1, 5)).unwrap_or(1)),
            max_attempts: Some(20),
            ..Draft::default()
        }
    }

    /// Submits, and sometimes says it again, in other words too. Tries until there is an answer.
    async fn submit(&mut self) -> Option<TaskId> {
        self.submitted += 1;
        let (draft, key) = (self.draft(), format!("{}-{}", self.name, self.submitted));
        let task = stubbornly(|| self.api.submit(&draft, &key)).await?.view.task_id;
        if self.dice.percent(10) {
            let (one, two) = tokio::join!(self.api.submit(&draft, &key), self.api.submit(&draft, &key));
            drop((one, two));
        }
        if self.dice.percent(5) {
            let other = Draft { reason: Some("something else".into()), ..draft };
            drop(self.api.submit(&other, &key).await);
        }
        Some(task)
    }

    /// Sometimes meddles, then waits for the end.
    async fn follow(&mut self, task: TaskId) {
        let fate = self.dice.between(0, 100);
        let moment = Duration::from_millis(self.dice.between(50, 1_000));
        if fate < 10 {
            sleep(moment).await;
            stubbornly(|| self.api.control(task, Control::Cancel)).await;
        } else if fate < 25 {
            sleep(moment).await;
            stubbornly(|| self.api.control(task, Control::Pause)).await;
            sleep(Duration::from_millis(self.dice.between(100, 2_000))).await;
            stubbornly(|| self.api.control(task, Control::Resume)).await;
        }
        let end = Instant::now() + STUBBORN;
        while Instant::now() < end {
            if self.api.task(task).await.is_ok_and(|info| info.view.status.is_terminal()) {
                return;
            }
            sleep(Duration::from_millis(700)).await;
        }
    }
}

/// Calls until there is an answer, good or bad; `None` for a refusal, or when none came for too long.
async fn stubbornly<T, F>(mut call: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let end = Instant::now() + STUBBORN;
    loop {
        match call().await {
            Ok(answer) => return Some(answer),
            Err(error) if error.is_transient() && Instant::now() < end => {
                sleep(Duration::from_millis(300)).await;
            }
            Err(_) => return None,
        }
    }
}

/// Sends a task of one item through everything, from submit to the news of its end, and says how long that took.
///
/// # Errors
/// When it does not come through in time.
pub async fn canary(
    api: &Api,
    live: &mut milepost::client::Live,
    key: &str,
    within: Duration,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let draft = Draft {
        action: "label".into(),
        cluster: "sim".into(),
        items: vec!["node-001".into()],
        parameters: json!({ "labels": { "chaos/canary": "sings" }, "overwrite": true }),
        max_attempts: Some(20),
        ..Draft::default()
    };
    let through = async {
        let task = loop {
            match api.submit(&draft, key).await {
                Ok(info) => break info.view.task_id,
                Err(error) if error.is_transient() => sleep(Duration::from_millis(100)).await,
                Err(error) => return Err(error.into()),
            }
        };
        while live.snapshot().get(task).is_none_or(|view| !view.status.is_terminal()) {
            live.next().await?;
        }
        Ok(begin.elapsed())
    };
    match tokio::time::timeout(within, through).await {
        Ok(took) => took,
        Err(_) => anyhow::bail!("a task of one item did not come through within {within:?}"),
    }
}
