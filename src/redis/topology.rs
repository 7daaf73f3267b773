//! Where Redis is, and how to reach a server of it: credentials, TLS, sockets and protocol.
//!
//! A URL names one server, some Sentinels, or some nodes of a Cluster. All but the first tell which servers there are;
//! this says how to open a connection to one of them. Not here: asking them ([`super::discovery`]).

use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError};
use secrecy::ExposeSecret;

use crate::config::redis_url::Run;
use crate::config::{RedisConfig, RedisUrl};

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

/// A server: host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Name or address of the host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Address {
    /// Reads `host:port`; the host of an IPv6 address holds colons itself.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Who says which servers there are.
#[derive(Debug, Clone)]
pub(super) enum Guide {
    /// Nobody: it is this one.
    Fixed(Address),
    /// The Sentinels, asked for the primary of this name.
    Sentinels { sentinels: Vec<ConnectionInfo>, master: String },
    /// The nodes of a Cluster.
    Cluster(Vec<Address>),
}

/// Where Redis is.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    pub(super) guide: Guide,
    /// What connections to servers have in common; the address in it is replaced.
    like: ConnectionInfo,
}

impl Topology {
    /// Reads the URL.
    pub(super) fn from_config(config: &RedisConfig) -> Result<Self, SetupError> {
        let text = config.url.as_ref().ok_or(SetupError::Missing)?.expose_secret();
        let url = RedisUrl::parse(text).map_err(|faults| SetupError::Setting {
            key: "redis.url",
            problem: faults.first().map_or("cannot be read", |fault| fault.0),
        })?;
        let info = |text: &str| text.into_connection_info().map_err(SetupError::Url);
        let any = |login: &str, db: u32| info(&plain(url.tls, login, db));
        let hosts = || url.hosts.iter().map(|(host, port)| Address { host: host.clone(), port: *port });
        let (guide, like) = match &url.run {
            Run::Single => {
                let like = info(text)?;
                (Guide::Fixed(address_of(like.addr())), like)
            }
            Run::Sentinel { master, login } => {
                let like = any(login, 0)?;
                let sentinels =
                    hosts().map(|host| connection(&like, &host, ProtocolVersion::RESP2)).collect();
                (Guide::Sentinels { sentinels, master: master.clone() }, any(&url.login, url.db)?)
            }
            Run::Cluster => (Guide::Cluster(hosts().collect()), any(&url.login, 0)?),
        };
        Ok(Self { guide, like })
    }

    /// How to reach a server for commands. RESP2: replies are arrays, which the hot path reads by hand.
    pub(super) fn commands(&self, server: &Address) -> ConnectionInfo {
        connection(&self.like, server, ProtocolVersion::RESP2)
    }

    /// How to reach a server for subscriptions, whose messages are pushed.
    pub(super) fn subscriptions(&self, server: &Address) -> ConnectionInfo {
        connection(&self.like, server, ProtocolVersion::RESP3)
    }
}

/// A URL of one server that stands for all of them.
fn plain(tls: bool, login: &str, db: u32) -> String {
    let (scheme, at) = (if tls { "rediss" } else { "redis" }, if login.is_empty() { "" } else { "@" });
    format!("{scheme}://{login}{at}localhost/{db}")
}

fn address_of(addr: &ConnectionAddr) -> Address {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Address { host: host.clone(), port: *port }
        }
        other => Address { host: other.to_string(), port: 0 },
    }
}

fn connection(like: &ConnectionInfo, server: &Address, protocol: ProtocolVersion) -> ConnectionInfo {
    let mut addr = like.addr().clone();
    if let ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } = &mut addr {
        (*host, *port) = (server.host.clone(), server.port);
    }
    let redis = like.redis_settings().clone().set_protocol(protocol);
    let redis = redis.set_lib_name("milepost", env!("CARGO_PKG_VERSION"));
    like.clone().set_addr(addr).set_redis_settings(redis).set_tcp_settings(tcp_settings())
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

    fn server(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn a_faulty_url_is_refused_without_showing_its_password() {
        assert!(matches!(Topology::from_config(&RedisConfig::default()), Err(SetupError::Missing)));
        for url in
            ["redis://user:hunter2@host:port/", "redis+sentinel://:hunter2@host", "redis+cluster://:hunter2@"]
        {
            let error = topology(url).unwrap_err();
            let text = format!("{error} {:?}", std::error::Error::source(&error));
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn every_connection_has_nodelay_and_the_right_protocol() {
        let topology = topology("redis://user:secret@localhost:7000/2?protocol=resp3").unwrap();
        let Guide::Fixed(at) = &topology.guide else { panic!("{topology:?}") };
        assert_eq!(*at, server("localhost:7000"));
        let (commands, subscriptions) = (topology.commands(at), topology.subscriptions(at));
        assert!(commands.tcp_settings().nodelay() && subscriptions.tcp_settings().nodelay());
        assert_eq!(commands.redis_settings().protocol(), ProtocolVersion::RESP2);
        assert_eq!(subscriptions.redis_settings().protocol(), ProtocolVersion::RESP3);
        assert_eq!(commands.redis_settings().db(), 2);
        assert_eq!(commands.redis_settings().password(), Some("secret"));
    }

    #[test]
    fn sentinels_and_servers_have_each_their_own_login() {
        let url = "rediss+sentinel://u:p%40@a:1,b:2/main/3?sentinel_username=s&sentinel_password=x";
        let topology = topology(url).unwrap();
        let primary = topology.commands(&server("10.0.0.1:7000"));
        assert_eq!((primary.redis_settings().username(), primary.redis_settings().db()), (Some("u"), 3));
        assert_eq!(primary.redis_settings().password(), Some("p@"));
        assert!(
            matches!(primary.addr(), ConnectionAddr::TcpTls { host, port: 7000, .. } if host == "10.0.0.1")
        );
        let Guide::Sentinels { sentinels, master } = &topology.guide else { panic!("{topology:?}") };
        assert_eq!((sentinels.len(), master.as_str()), (2, "main"));
        assert_eq!(
            (sentinels[1].redis_settings().password(), sentinels[1].redis_settings().db()),
            (Some("x"), 0)
        );
        assert!(matches!(sentinels[1].addr(), ConnectionAddr::TcpTls { host, port: 2, .. } if host == "b"));
    }

    #[test]
    fn nodes_of_a_cluster_share_their_login() {
        let topology = topology("redis+cluster://:p@a:1,b").unwrap();
        let Guide::Cluster(nodes) = &topology.guide else { panic!("{topology:?}") };
        assert_eq!(nodes, &[server("a:1"), server("b:6379")]);
        let node = topology.subscriptions(&server("::1:7000"));
        assert!(matches!(node.addr(), ConnectionAddr::Tcp(host, 7000) if host == "::1"));
        assert_eq!(node.redis_settings().password(), Some("p"));
    }
}
