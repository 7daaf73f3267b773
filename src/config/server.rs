//! Ports, addresses, sockets and what one caller may do.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// Where the gateway listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the API, the live endpoints and the dashboard.
    pub listen: SocketAddr,
    /// Address of probes and metrics, for every role.
    pub admin_listen: SocketAddr,
    /// Origins of browsers that may open live connections, such as `https://ops.example.com`. The gateway's own
    /// origin is always allowed.
    pub allowed_origins: Vec<String>,
    /// Addresses of proxies in front, single or as `10.0.0.0/8`. What they say of a client's address (`X-Forwarded-For`) is
    /// believed, for the audit.
    pub trusted_proxies: Vec<String>,
    /// How long a request may take, live connections aside.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// How long a shutdown may take before connections are cut.
    #[serde(with = "duration")]
    pub grace: Duration,
    /// Over how long sockets are closed at a shutdown, so that clients do not all come back at once.
    #[serde(with = "duration")]
    pub close_spread: Duration,
    /// Most connections at once.
    pub connections_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            request_timeout: Duration::from_secs(15),
            grace: Duration::from_secs(30),
            close_spread: Duration::from_secs(3),
            connections_max: 50_000,
        }
    }
}

/// Sockets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LiveConfig {
    /// Most bytes queued for one socket; past it the socket is closed with 4008 and resumes.
    pub queue_bytes_max: usize,
    /// Bytes queued for one socket past which newer progress replaces older progress of the same task.
    pub coalesce_bytes: usize,
    /// Pause between pings.
    #[serde(with = "duration")]
    pub ping_interval: Duration,
    /// Silence after which a socket is closed; at least two pings.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// How long one write may take.
    #[serde(with = "duration")]
    pub write_timeout: Duration,
    /// Finished tasks in a snapshot, newest first.
    pub snapshot_recent: u32,
    /// How long a ticket of a browser is good for.
    #[serde(with = "duration")]
    pub ticket_ttl: Duration,
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self {
            queue_bytes_max: 1024 * 1024,
            coalesce_bytes: 64 * 1024,
            ping_interval: Duration::from_secs(25),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(10),
            snapshot_recent: 50,
            ticket_ttl: Duration::from_secs(30),
        }
    }
}

/// What one caller may do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Requests per second of one user, past a burst of twice as many.
    pub requests_per_second: u32,
    /// Sockets of one user on one replica.
    pub sockets_per_user: u32,
    /// Tasks of one user that are not over, paused ones included. It bounds what a client is sent when it connects.
    pub open_tasks_per_user: u32,
    /// Largest body of a submit, in bytes.
    pub submit_bytes_max: usize,
    /// Largest body of any other request, in bytes.
    pub body_bytes_max: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            requests_per_second: 50,
            sockets_per_user: 20,
            open_tasks_per_user: 1_000,
            submit_bytes_max: 32 * 1024 * 1024,
            body_bytes_max: 64 * 1024,
        }
    }
}
