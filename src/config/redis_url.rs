//! What `redis.url` says: where Redis is, and how it is run. Pure: a text in, an address or all its faults out.
//!
//! One server is `redis://`. Sentinel and Cluster take several hosts, of which any may be down at a start:
//! `redis+sentinel://user:password@host,host,host/master/db` and `redis+cluster://user:password@host,host,host`; with
//! TLS they begin with `rediss`. Not here: connecting ([`crate::redis`]). A fault never quotes the URL, which may hold a
//! password.

/// The port of Redis when none is given.
const REDIS_PORT: u16 = 6379;
/// The port of Sentinel when none is given.
const SENTINEL_PORT: u16 = 26379;

/// How Redis is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// One server, or one address that always leads to the primary.
    Single,
    /// A primary with replicas, watched by Sentinels. The hosts are those of the Sentinels.
    Sentinel {
        /// What the Sentinels call the primary.
        master: String,
        /// User and password for the Sentinels themselves, as in a URL; empty when they ask for none.
        login: String,
    },
    /// A Cluster. The hosts are any of its nodes.
    Cluster,
}

/// Where Redis is.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// How it is run.
    pub run: Run,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// Hosts to ask first, each with its port. Empty for one server, whose URL is used as it is.
    pub hosts: Vec<(String, u16)>,
    /// User and password for the servers, as in a URL: `user:password`, or empty.
    pub login: String,
    /// The database on the servers.
    pub db: u32,
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisUrl")
            .field("run", &self.kind())
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl RedisUrl {
    /// How it is run, in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.run {
            Run::Single => "single",
            Run::Sentinel { .. } => "sentinel",
            Run::Cluster => "cluster",
        }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// Everything that is wrong with it, each as a problem and what would be right.
    pub fn parse(url: &str) -> Result<Self, Vec<Fault>> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (base, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if !matches!(base, "redis" | "rediss") || !matches!(kind, "" | "sentinel" | "cluster") {
            return Err(vec![Fault("does not begin with a known scheme", SCHEMES)]);
        }
        let tls = base == "rediss";
        if kind.is_empty() {
            return Ok(Self { run: Run::Single, tls, hosts: Vec::new(), login: String::new(), db: 0 });
        }
        let mut parts = Parts::of(rest);
        let run = if kind == "sentinel" { parts.sentinel() } else { parts.cluster() };
        let port = if kind == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
        let hosts = parts.hosts(port);
        if parts.faults.is_empty() {
            Ok(Self { run, tls, hosts, login: parts.login.to_owned(), db: parts.db })
        } else {
            Err(parts.faults)
        }
    }
}

const SCHEMES: &str = "begin with redis://, redis+sentinel:// or redis+cluster://, or with rediss for TLS";

/// What is wrong with a URL, and what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub &'static str, pub &'static str);

/// The pieces after the scheme, and what is wrong with them.
struct Parts<'a> {
    login: &'a str,
    hosts: &'a str,
    path: &'a str,
    query: &'a str,
    db: u32,
    faults: Vec<Fault>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self { login, hosts, path, query, db: 0, faults: Vec::new() }
    }

    fn sentinel(&mut self) -> Run {
        let (master, db) = self.path.split_once('/').unwrap_or((self.path, ""));
        if master.is_empty() {
            let fix = "put the name that the Sentinels watch after the hosts, such as /mymaster";
            self.faults.push(Fault("does not name the master", fix));
        }
        match db.parse() {
            Ok(db) => self.db = db,
            Err(_) if db.is_empty() => {}
            Err(_) => self.faults.push(Fault(
                "has a database that is no number",
                "write /mymaster/0, or leave the number out",
            )),
        }
        Run::Sentinel { master: master.to_owned(), login: self.sentinel_login() }
    }

    /// The login for the Sentinels themselves.
    fn sentinel_login(&mut self) -> String {
        let (mut user, mut password) = ("", "");
        for (name, value) in self.query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "sentinel_username" => user = value,
                "sentinel_password" => password = value,
                _ => self.faults.push(Fault(
                    "has a parameter that nobody knows",
                    "use sentinel_username and sentinel_password alone",
                )),
            }
        }
        if user.is_empty() && password.is_empty() { String::new() } else { format!("{user}:{password}") }
    }

    fn cluster(&mut self) -> Run {
        if !matches!(self.path, "" | "0") {
            self.faults.push(Fault(
                "names a database, of which a Cluster has only one",
                "remove what comes after the hosts",
            ));
        }
        Run::Cluster
    }

    fn hosts(&mut self, port: u16) -> Vec<(String, u16)> {
        let names = self.hosts.split(',').filter(|name| !name.is_empty());
        let hosts: Vec<_> = names.map(|name| host(name, port)).collect();
        if hosts.is_empty() {
            self.faults.push(Fault("names no host", "write one or more, with commas between them"));
        }
        if hosts.contains(&None) {
            self.faults.push(Fault("has a host that cannot be read", "write host or host:port"));
        }
        hosts.into_iter().flatten().collect()
    }
}

/// Host and port; an IPv6 address stands in brackets.
fn host(text: &str, port: u16) -> Option<(String, u16)> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']')?;
            (name, if rest.is_empty() { port } else { rest.strip_prefix(':')?.parse().ok()? })
        }
        None => match text.split_once(':') {
            Some((name, number)) => (name, number.parse().ok()?),
            None => (text, port),
        },
    };
    let plain = !name.is_empty() && !name.contains(['/', ' ', '@']);
    plain.then(|| (name.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[(&str, u16)]) -> Vec<(String, u16)> {
        list.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()
    }

    #[test]
    fn one_server_is_left_as_it_is() {
        let url = RedisUrl::parse("redis://user:password@host:port/db?protocol=resp3").unwrap();
        assert_eq!((url.run, url.tls), (Run::Single, false));
        assert!(RedisUrl::parse("rediss://host").unwrap().tls);
    }

    #[test]
    fn sentinels_name_the_master_and_maybe_a_database() {
        let url = RedisUrl::parse("redis+sentinel://u:p%40@a:7000,b,[::1]:7002/mymaster/3").unwrap();
        assert_eq!(url.run, Run::Sentinel { master: "mymaster".into(), login: String::new() });
        assert_eq!(url.hosts, hosts(&[("a", 7000), ("b", SENTINEL_PORT), ("::1", 7002)]));
        assert_eq!((url.login.as_str(), url.db, url.tls), ("u:p%40", 3, false));
        let url = RedisUrl::parse("rediss+sentinel://a/m?sentinel_username=s&sentinel_password=x").unwrap();
        assert_eq!(url.run, Run::Sentinel { master: "m".into(), login: "s:x".into() });
        assert!(url.tls);
    }

    #[test]
    fn a_cluster_is_any_of_its_nodes() {
        let url = RedisUrl::parse("redis+cluster://:p@a:7000,b").unwrap();
        assert_eq!((url.run, url.login.as_str()), (Run::Cluster, ":p"));
        assert_eq!(url.hosts, hosts(&[("a", 7000), ("b", REDIS_PORT)]));
    }

    #[test]
    fn every_fault_is_told_at_once_and_none_shows_the_password() {
        for (url, problems) in [
            ("http://a", &["does not begin with a known scheme"][..]),
            ("redis+ring://a", &["does not begin with a known scheme"]),
            ("redis+sentinel://hunter2@a:x", &["does not name the master", "has a host that cannot be read"]),
            ("redis+sentinel://:hunter2@", &["does not name the master", "names no host"]),
            (
                "redis+sentinel://a/m/x?y=1",
                &["has a database that is no number", "has a parameter that nobody knows"],
            ),
            ("redis+cluster://:hunter2@a/5", &["names a database, of which a Cluster has only one"]),
            ("redis+cluster://[::1", &["has a host that cannot be read"]),
        ] {
            let faults = RedisUrl::parse(url).unwrap_err();
            assert_eq!(faults.iter().map(|fault| fault.0).collect::<Vec<_>>(), problems, "{url}");
            assert!(!format!("{faults:?}").contains("hunter2"));
        }
        let url = RedisUrl::parse("redis+cluster://:hunter2@a").unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}
