//! What the URL says about where Redis is: one server, Sentinel or Cluster.
//!
//! Keys, shards and the use of connections are made for all three; the connections to Sentinel and Cluster are not
//! built yet, so their URLs are refused in plain words.

use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError};
use secrecy::ExposeSecret;

use crate::config::RedisConfig;

/// How long a connection may be silent before the kernel asks the peer whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why Redis cannot be used as configured. All of these stop a start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `redis.url` is missing.
    #[error("redis.url is not set")]
    Missing,
    /// The URL cannot be read. The URL itself is not shown: it holds a password.
    #[error("redis.url is not a Redis URL")]
    Url(#[source] RedisError),
    /// The URL asks for what is not built yet.
    #[error(
        "redis.url asks for {0}, which is not supported yet: give the address of one server as redis:// or rediss://"
    )]
    Unsupported(&'static str),
    /// A setting cannot be used.
    #[error("{key} {problem}")]
    Setting {
        /// The key to change.
        key: &'static str,
        /// What is wrong with it, as the end of a sentence.
        problem: &'static str,
    },
    /// A pool was given impossible limits.
    #[error("the connection pool cannot be built")]
    Pool(#[source] crate::BoxError),
}

/// Where Redis is.
#[derive(Debug, Clone)]
pub(super) enum Topology {
    /// One server, or one address that always leads to the primary.
    Single(Box<ConnectionInfo>),
}

impl Topology {
    /// Reads the URL.
    pub(super) fn from_config(config: &RedisConfig) -> Result<Self, SetupError> {
        let url = config.url.as_ref().ok_or(SetupError::Missing)?.expose_secret();
        if let Some(wish) = unsupported(url) {
            return Err(SetupError::Unsupported(wish));
        }
        let info = url.into_connection_info().map_err(SetupError::Url)?;
        Ok(Self::Single(Box::new(info.set_tcp_settings(tcp_settings()))))
    }

    /// How to reach the server for commands. RESP2: replies are arrays, which the hot path reads by hand.
    pub(super) fn commands(&self) -> ConnectionInfo {
        self.with_protocol(ProtocolVersion::RESP2)
    }

    /// How to reach the server for subscriptions, whose messages are pushed.
    pub(super) fn subscriptions(&self) -> ConnectionInfo {
        self.with_protocol(ProtocolVersion::RESP3)
    }

    fn with_protocol(&self, protocol: ProtocolVersion) -> ConnectionInfo {
        let Self::Single(info) = self;
        let redis = info
            .redis_settings()
            .clone()
            .set_protocol(protocol)
            .set_lib_name("milepost", env!("CARGO_PKG_VERSION"));
        info.as_ref().clone().set_redis_settings(redis)
    }
}

fn unsupported(url: &str) -> Option<&'static str> {
    let scheme = url.split("://").next().unwrap_or_default();
    if scheme.contains("sentinel") {
        Some("Sentinel")
    } else if scheme.contains("cluster") {
        Some("Cluster")
    } else {
        None
    }
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(url: &str) -> Result<Topology, SetupError> {
        Topology::from_config(&RedisConfig { url: Some(url.into()), ..RedisConfig::default() })
    }

    #[test]
    fn what_is_not_built_is_refused_in_plain_words() {
        for (url, word) in [
            ("redis+sentinel://a:26379/main", "Sentinel"),
            ("rediss-sentinel://a:26379/main", "Sentinel"),
            ("redis-cluster://a:6379", "Cluster"),
            ("redis+cluster://a:6379", "Cluster"),
        ] {
            let error = topology(url).unwrap_err();
            assert!(matches!(error, SetupError::Unsupported(_)), "{url}: {error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(matches!(Topology::from_config(&RedisConfig::default()), Err(SetupError::Missing)));
    }

    #[test]
    fn a_faulty_url_is_refused_without_showing_its_password() {
        let error = topology("redis://user:hunter2@host:port/").unwrap_err();
        let text = format!("{error} {:?}", std::error::Error::source(&error));
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn every_connection_has_nodelay_and_the_right_protocol() {
        let topology = topology("redis://user:secret@localhost:7000/2?protocol=resp3").unwrap();
        let (commands, subscriptions) = (topology.commands(), topology.subscriptions());
        assert!(commands.tcp_settings().nodelay() && subscriptions.tcp_settings().nodelay());
        assert_eq!(commands.redis_settings().protocol(), ProtocolVersion::RESP2);
        assert_eq!(subscriptions.redis_settings().protocol(), ProtocolVersion::RESP3);
        assert_eq!(commands.redis_settings().db(), 2);
        assert_eq!(commands.redis_settings().password(), Some("secret"));
    }
}
