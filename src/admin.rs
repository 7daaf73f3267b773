//! Probes and metrics on a port of their own, for every role.
//!
//! `/livez` asks only whether this process still runs its tasks, so that an outage elsewhere restarts nobody.
//! `/readyz` asks whether to send work here, and says in JSON what is wrong. Neither ever waits for a backend: checks
//! answer from memory, and what needs a call is asked in the background. Not here: what is counted
//! ([`crate::telemetry::metrics`]).

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::BoxError;
use crate::bus::Health;
use crate::http::{self, Stops};
use crate::lifecycle::Lifecycle;
use crate::telemetry::metrics::Metrics;

/// Most connections at once: a few probes and scrapers.
const CONNECTIONS_MAX: usize = 64;
/// Pause between beats of the heart.
const BEAT: Duration = Duration::from_secs(1);
/// Age of the last beat past which the process counts as stuck.
const BEAT_AGE_MAX: Duration = Duration::from_secs(10);
/// The content type Prometheus expects of OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Something that readiness depends on.
pub struct Check {
    name: &'static str,
    health: Box<dyn Fn() -> Health + Send + Sync>,
}

impl Check {
    /// A check that answers from memory.
    pub fn new(name: &'static str, health: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        Self { name, health: Box::new(health) }
    }

    /// A check that needs a call: `ping` is called every `interval`, each time for at most `timeout`, until the hard
    /// stop, and the newest outcome is the answer. Not ready before the first.
    pub fn polled<F, P>(
        name: &'static str,
        interval: Duration,
        timeout: Duration,
        life: &Lifecycle,
        mut ping: P,
    ) -> Self
    where
        P: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send,
    {
        let newest = Arc::new(Mutex::new(Health { ready: false, detail: "not asked yet".into() }));
        let (place, stop) = (Arc::clone(&newest), life.hard().clone());
        tokio::spawn(async move {
            let asking = async {
                loop {
                    let health = ask(ping(), timeout).await;
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = health;
                    tokio::time::sleep(interval).await;
                }
            };
            tokio::select! { () = asking => {}, () = stop.cancelled() => {} }
        });
        Self::new(name, move || newest.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

async fn ask(ping: impl Future<Output = Result<(), BoxError>>, timeout: Duration) -> Health {
    match tokio::time::timeout(timeout, ping).await {
        Ok(Ok(())) => Health { ready: true, detail: "answers".into() },
        Ok(Err(error)) => Health { ready: false, detail: error.to_string() },
        Err(_) => Health { ready: false, detail: format!("no answer within {timeout:?}") },
    }
}

/// What the port tells.
pub struct Admin {
    /// Counts of this process.
    pub metrics: Metrics,
    /// What readiness depends on. That the process is stopping counts by itself.
    pub checks: Vec<Check>,
    /// This replica, for people.
    pub replica: String,
    /// The mode, for people.
    pub mode: String,
}

struct Shared {
    admin: Admin,
    stopping: CancellationToken,
    began: Instant,
    /// When the heart beat last, in milliseconds since `began`.
    beat_ms: AtomicU64,
}

/// Serves the port until the hard stop, so that a process that drains can still be looked at. Not tracked by `life`:
/// nobody waits for it.
pub fn serve(admin: Admin, listener: TcpListener, life: &Lifecycle) {
    let shared = Arc::new(Shared {
        admin,
        stopping: life.soft().clone(),
        began: Instant::now(),
        beat_ms: AtomicU64::new(0),
    });
    let hard = life.hard().clone();
    tokio::spawn(async move {
        let tracker = TaskTracker::new();
        let stops = Stops { soft: hard.clone(), hard: hard.clone() };
        tokio::select! {
            () = http::accept(listener, router(Arc::clone(&shared)), CONNECTIONS_MAX, &tracker, &stops) => {}
            () = shared.beat() => {}
        }
    });
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

impl Shared {
    async fn beat(&self) {
        let mut timer = tokio::time::interval(BEAT);
        loop {
            timer.tick().await;
            self.beat_ms.store(self.uptime_ms(), Ordering::Relaxed);
        }
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn beat_age(&self) -> Duration {
        Duration::from_millis(self.uptime_ms().saturating_sub(self.beat_ms.load(Ordering::Relaxed)))
    }
}

async fn livez(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if shared.beat_age() <= BEAT_AGE_MAX {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the runtime is stuck\n")
    }
}

/// The readiness page.
#[derive(Serialize)]
struct Readiness<'a> {
    ready: bool,
    replica: &'a str,
    mode: &'a str,
    checks: Vec<CheckLine>,
}

#[derive(Serialize)]
struct CheckLine {
    name: &'static str,
    ready: bool,
    detail: String,
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let stopping = shared.stopping.is_cancelled();
    let process = if stopping { "stopping" } else { "running" };
    let mut checks = vec![CheckLine { name: "process", ready: !stopping, detail: process.into() }];
    checks.extend(shared.admin.checks.iter().map(|check| {
        let Health { ready, detail } = (check.health)();
        CheckLine { name: check.name, ready, detail }
    }));
    let ready = checks.iter().all(|check| check.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let page = Readiness { ready, replica: &shared.admin.replica, mode: &shared.admin.mode, checks };
    (status, Json(page)).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    ([(CONTENT_TYPE, OPENMETRICS)], shared.admin.metrics.text()).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    struct Rig {
        base: String,
        life: Lifecycle,
    }

    impl Rig {
        async fn start(checks: impl FnOnce(&Lifecycle) -> Vec<Check>) -> Self {
            let life = Lifecycle::new();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let checks = checks(&life);
            let admin =
                Admin { metrics: Metrics::new(), checks, replica: "test-1".into(), mode: "memory".into() };
            serve(admin, listener, &life);
            Self { base, life }
        }

        async fn get(&self, path: &str) -> reqwest::Response {
            reqwest::get(format!("{}{path}", self.base)).await.unwrap()
        }

        async fn ready(&self) -> (u16, serde_json::Value) {
            let response = self.get("/readyz").await;
            (response.status().as_u16(), response.json().await.unwrap())
        }
    }

    #[tokio::test]
    async fn readiness_follows_its_checks_and_names_what_is_wrong() {
        let healthy = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&healthy);
        let check = Check::new("feed", move || {
            let ready = flag.load(Ordering::SeqCst);
            Health { ready, detail: if ready { "flows" } else { "no bell for 9 s" }.into() }
        });
        let rig = Rig::start(|_| vec![check]).await;
        assert_eq!(rig.ready().await.0, 200);
        healthy.store(false, Ordering::SeqCst);
        let (status, page) = rig.ready().await;
        assert_eq!((status, page["checks"][1]["detail"].as_str()), (503, Some("no bell for 9 s")));
        assert_eq!(rig.get("/livez").await.status(), 200, "an outage elsewhere restarts nobody");
    }

    #[tokio::test]
    async fn a_stopping_process_is_alive_and_not_ready_until_the_hard_stop() {
        let rig = Rig::start(|_| Vec::new()).await;
        rig.life.stop();
        assert_eq!(rig.ready().await.0, 503);
        assert_eq!(rig.get("/livez").await.status(), 200);
        assert_eq!(rig.get("/metrics").await.headers()[CONTENT_TYPE], OPENMETRICS);
    }

    /// Dashboards and alerts are made of these: they are there before anything has happened.
    #[tokio::test]
    async fn the_metrics_that_operators_watch_are_there_from_the_start() {
        let rig = Rig::start(|_| Vec::new()).await;
        let text = rig.get("/metrics").await.text().await.unwrap();
        for line in [
            "milepost_event_delivery_seconds_count 0",
            "milepost_terminal_events_delivered_total 0",
            "milepost_db_queries_total{op=\"read\"} 0",
            "milepost_db_queries_total{op=\"write\"} 0",
            "milepost_sockets{kind=\"ws\"} 0",
            "milepost_sockets{kind=\"sse\"} 0",
            "milepost_tasks_finished_total{status=\"completed\"} 0",
            "milepost_tasks_finished_total{status=\"failed\"} 0",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_backend_that_hangs_makes_the_page_unready_and_never_slow() {
        let rig = Rig::start(|life| {
            let hangs = || std::future::pending::<Result<(), BoxError>>();
            vec![Check::polled("store", Duration::from_millis(5), Duration::from_millis(20), life, hangs)]
        })
        .await;
        assert_eq!(rig.ready().await.0, 503, "not ready before the first answer");
        let deadline = Instant::now() + Duration::from_secs(20);
        while rig.ready().await.1["checks"][1]["detail"] != "no answer within 20ms" {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_backend_that_answers_makes_the_page_ready() {
        let rig = Rig::start(|life| {
            let answers = || std::future::ready(Ok::<_, BoxError>(()));
            vec![Check::polled("store", Duration::from_secs(60), Duration::from_secs(1), life, answers)]
        })
        .await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while rig.ready().await.0 != 200 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
