//! Where a request came from, as the audit tells it.
//!
//! The address is that of the other end of the connection, unless that is a trusted proxy: then it is the last one in
//! `X-Forwarded-For` that is none. What stands before it anybody may have written.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;

use crate::config::network::Network;
use crate::http::Peer;
use crate::task::Origin;

/// Where a request came from, its role aside.
pub(crate) fn of(parts: &Parts, proxies: &[Network]) -> Origin {
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let peer = parts.extensions.get::<Peer>().map(|Peer(address)| *address);
    let address = peer.map(|peer| client(peer, &parts.headers, proxies));
    let (agent, request) = (text(USER_AGENT.as_str()), text("x-request-id"));
    Origin { role: None, address, agent, request }.bounded()
}

/// The client behind trusted proxies.
fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| proxies.iter().any(|network| network.has(address));
    let told = headers.get_all("x-forwarded-for").iter();
    let told: Vec<&str> = told.flat_map(|value| value.to_str().unwrap_or("?").split(',')).collect();
    let mut nearest = peer;
    for address in told.into_iter().rev() {
        if !is_trusted(nearest) {
            break;
        }
        let Ok(address) = address.trim().parse::<IpAddr>() else { break };
        nearest = address.to_canonical();
    }
    nearest
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_trusted_proxies_say_is_believed() {
        let proxies: Vec<Network> =
            ["10.0.0.0/8", "::1"].iter().filter_map(|text| Network::parse(text)).collect();
        let seen = |peer: &str, told: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in told {
                headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
            }
            client(peer.parse().unwrap(), &headers, &proxies).to_string()
        };
        assert_eq!(seen("192.0.2.1", &["203.0.113.9"]), "192.0.2.1", "it is no proxy of ours");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &["198.51.100.1, 203.0.113.9, 10.0.0.2"]), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &["198.51.100.1", "203.0.113.9"]), "203.0.113.9", "the last header");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9, nonsense"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9", "n\u{e4}"]), "10.0.0.1", "nothing is left out");
        assert_eq!(seen("::1", &["10.1.1.1"]), "10.1.1.1");
        assert_eq!(seen("10.0.0.1", &["::ffff:203.0.113.9"]), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
    }
}
