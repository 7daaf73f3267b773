//! What is measured: a hub of real processes that is started for it, or one that runs already. Not here: what is done to it
//! ([`crate::run`]) and what it costs ([`crate::cost`]).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{EncodingKey, Header};
use milepost_harness::{Hub, HubMode, HubSpec, SECRET};
use serde_json::json;

use crate::spec::Scenario;

/// Tokens are good for so long: longer than any run.
const TOKEN_SECS: i64 = 24 * 60 * 60;
/// Lanes of one batch where nothing else is said, as a worker has them by default.
const LANES: usize = 20;

/// A hub that runs somewhere else, and the secret of its tokens.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// Base addresses of its gateways.
    pub urls: Vec<String>,
    /// Its `auth.hs256_secret`.
    pub secret: String,
}

/// A hub, and how to get in.
pub struct Place {
    urls: Vec<String>,
    key: EncodingKey,
    /// The processes, if they are ours.
    pub hub: Option<Hub>,
}

impl Place {
    /// Starts a hub that suits a scenario. Blocks until all of it is ready.
    ///
    /// # Errors
    /// When a server or a process does not come up.
    pub fn start(scenario: &Scenario, mode: HubMode, binary: &Path) -> Result<Self> {
        Self::start_hub(hub_spec(scenario, mode, binary))
    }

    /// Starts this hub. Blocks until all of it is ready.
    ///
    /// # Errors
    /// When a server or a process does not come up.
    pub fn start_hub(spec: HubSpec) -> Result<Self> {
        let hub = Hub::start(spec)?;
        Ok(Self { urls: hub.urls(), key: EncodingKey::from_secret(SECRET.as_bytes()), hub: Some(hub) })
    }

    /// Uses a hub that runs already.
    pub fn attach(elsewhere: &Elsewhere) -> Self {
        let key = EncodingKey::from_secret(elsewhere.secret.as_bytes());
        Self { urls: elsewhere.urls.clone(), key, hub: None }
    }

    /// Base addresses of the gateways.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// A token of an operator.
    pub fn token(&self, user: &str) -> Result<String> {
        let expires = crate::clock::now_us() / 1_000_000 + TOKEN_SECS;
        let claims = json!({"sub": user, "role": "operator", "exp": expires});
        Ok(jsonwebtoken::encode(&Header::default(), &claims, &self.key)?)
    }

    /// Kills the first gateway.
    ///
    /// # Errors
    /// When the hub is not ours to kill.
    pub fn kill_gateway(&self) -> Result<()> {
        let hub =
            self.hub.as_ref().context("a hub that runs elsewhere is not killed: leave out --against")?;
        hub.gateways[0].kill()
    }
}

fn hub_spec(scenario: &Scenario, mode: HubMode, binary: &Path) -> HubSpec {
    let mut spec = HubSpec::new(binary, mode).counted();
    (spec.gateways, spec.workers) = (scenario.hub.gateways, scenario.hub.workers);
    if scenario.hub.sized {
        let tasks = scenario.submitters().max(1);
        for (key, value) in [
            ("MILEPOST_WORKER__LANES", tasks * LANES),
            ("MILEPOST_WORKER__TASKS_MAX", tasks),
            ("MILEPOST_WORKER__PER_CLUSTER_MAX", tasks),
        ] {
            spec = spec.set(key, &value.to_string());
        }
    }
    scenario.hub.settings.iter().fold(spec, |spec, (key, value)| spec.set(key, value))
}

/// The `milepost` binary: the one that was named, or the one beside this program.
///
/// # Errors
/// When it is not there.
pub fn binary(named: Option<&Path>) -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("milepost");
    let binary = named.map_or(beside, Path::to_owned);
    ensure!(binary.exists(), "{} is missing: cargo build --release --workspace", binary.display());
    Ok(binary)
}
