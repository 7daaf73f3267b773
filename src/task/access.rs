//! Who may do what on which cluster.
//!
//! A role says what a user may do at all; a capability lets them do what can cost others their pods or their cluster, and
//! nobody holds one that was not given to them by name, admins included. Both are of a cluster: a [`Claim`] (what a token
//! says) and the [`Grant`]s of the installation are put together into an [`Access`] to one cluster. Pure. Not here: who
//! verifies tokens (gateway), and what is refused on a node ([`super::safety`]).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ActionSpec, ClusterName, UserId};

/// What a user may do. Each role may do what the one before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nothing; the cluster is not there for them. Only of a cluster, never of a whole token.
    None,
    /// Read their own tasks, and clusters.
    Viewer,
    /// Submit tasks and control their own.
    Operator,
    /// See and control everyone's tasks.
    Admin,
}

impl Role {
    /// The word used in tokens, settings and sentences.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// What is held only when it was given by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Drain pods that nothing will make anew (`force`).
    Force,
    /// Delete pods where an eviction would ask their budgets (`bypass_pdb`).
    BypassPdb,
    /// Take nodes of the control plane, and protected nodes, out of service.
    ControlPlane,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Force, Self::BypassPdb, Self::ControlPlane];

    /// The word used in tokens, settings, sentences and storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Force => "force",
            Self::BypassPdb => "bypass-pdb",
            Self::ControlPlane => "control-plane",
        }
    }

    /// Those that an action asks for by its parameters, whatever the nodes.
    pub fn asked_by(action: &ActionSpec) -> impl Iterator<Item = Self> {
        let drain = match action {
            ActionSpec::Drain(parameters) => Some(parameters),
            _ => None,
        };
        let force = drain.is_some_and(|drain| drain.force).then_some(Self::Force);
        let bypass = drain.is_some_and(|drain| drain.bypass_pdb).then_some(Self::BypassPdb);
        force.into_iter().chain(bypass)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|capability| capability.as_str() == word);
        known.ok_or_else(|| format!("{word:?} is no capability: they are {}", Capabilities::all()))
    }
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Capability>", into = "Vec<Capability>")]
pub struct Capabilities(u8);

impl Capabilities {
    /// Every one.
    #[must_use]
    pub fn all() -> Self {
        Self::from_iter(Capability::ALL)
    }

    /// Whether one is held.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u8) != 0
    }

    /// Those of either.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Each that is held.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |capability| self.has(*capability))
    }

    /// What is asked for and not held, if anything is.
    #[must_use]
    pub fn lacks(self, action: &ActionSpec) -> Option<Capability> {
        Capability::asked_by(action).find(|capability| !self.has(*capability))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(all: I) -> Self {
        Self(all.into_iter().fold(0, |set, capability| set | 1 << capability as u8))
    }
}

impl From<Vec<Capability>> for Capabilities {
    fn from(list: Vec<Capability>) -> Self {
        list.into_iter().collect()
    }
}

impl From<Capabilities> for Vec<Capability> {
    fn from(set: Capabilities) -> Self {
        set.iter().collect()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Capability::as_str).collect();
        f.write_str(&words.join(", "))
    }
}

/// What a token says of the clusters that match one pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterClaim {
    /// The role there; the token's own when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Capabilities there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub may: Vec<Capability>,
}

/// What a token says of clusters, by patterns of their names. What it does not know of is left to the token's role.
pub type Claim = BTreeMap<String, ClusterClaim>;

/// What an installation gives or takes away, whatever tokens say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grant {
    /// Only these users; everybody when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Only users whose token has one of these roles there; all when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Only clusters whose names match one of these patterns, in which `*` stands for any text; all when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// The most that they are there. The first grant that fits and says so counts; it never makes anybody more than
    /// their token does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Capabilities that they hold there; those of all grants that fit add up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub may: Vec<Capability>,
}

impl Grant {
    fn fits(&self, user: &UserId, role: Role, cluster: &ClusterName) -> bool {
        self.is_of(user, role)
            && (self.clusters.is_empty() || self.clusters.iter().any(|glob| matches(glob, cluster.as_str())))
    }

    fn is_of(&self, user: &UserId, role: Role) -> bool {
        (self.users.is_empty() || self.users.iter().any(|name| name == user.as_str()))
            && (self.roles.is_empty() || self.roles.contains(&role))
    }
}

/// Whether somebody is admin on every cluster there is or will be: their token says so, and nothing says less of any.
#[must_use]
pub fn is_admin_everywhere(user: &UserId, role: Role, claim: &Claim, grants: &[Grant]) -> bool {
    let less = |said: Option<Role>| said.is_some_and(|role| role < Role::Admin);
    role == Role::Admin
        && !claim.values().any(|said| less(said.role))
        && !grants.iter().any(|grant| less(grant.role) && grant.is_of(user, role))
}

/// What one user may do on one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Their role there.
    pub role: Role,
    /// What they hold there; nothing without a role that may act.
    pub may: Capabilities,
}

impl Access {
    /// What `user`, whose token has this role and this claim, may do on `cluster`.
    #[must_use]
    pub fn of(user: &UserId, role: Role, claim: &Claim, grants: &[Grant], cluster: &ClusterName) -> Self {
        let said = of_claim(claim, cluster.as_str());
        let told = said.iter().find_map(|entry| entry.role).unwrap_or(role);
        let fitting: Vec<&Grant> = grants.iter().filter(|grant| grant.fits(user, told, cluster)).collect();
        let most = fitting.iter().find_map(|grant| grant.role).unwrap_or(told);
        let role = told.min(most);
        let given = said.iter().flat_map(|entry| &entry.may);
        let granted = fitting.iter().flat_map(|grant| &grant.may);
        let may: Capabilities = given.chain(granted).copied().collect();
        Self { role, may: if role >= Role::Operator { may } else { Capabilities::default() } }
    }

    /// Whether the cluster is there for them.
    #[must_use]
    pub fn may_see(self) -> bool {
        self.role >= Role::Viewer
    }

    /// What they lack to submit an action, if anything.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn may_submit(self, action: &ActionSpec) -> Result<(), Missing> {
        self.may_act()?;
        self.may.lacks(action).map_or(Ok(()), |capability| Err(Missing::Capability(capability)))
    }

    /// What they lack to act at all, if anything.
    ///
    /// # Errors
    /// The role that it takes.
    pub fn may_act(self) -> Result<(), Missing> {
        if self.role >= Role::Operator { Ok(()) } else { Err(Missing::Role(Role::Operator)) }
    }
}

/// What somebody lacks on a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A role: this one or a higher one.
    Role(Role),
    /// A capability.
    Capability(Capability),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => write!(f, "the role {}", role.as_str()),
            Self::Capability(capability) => write!(f, "the capability {capability}"),
        }
    }
}

/// The entries of a claim that fit a cluster: the one of its very name first, then those of longer patterns.
fn of_claim<'a>(claim: &'a Claim, cluster: &str) -> Vec<&'a ClusterClaim> {
    let mut said: Vec<(&String, &ClusterClaim)> =
        claim.iter().filter(|(glob, _)| matches(glob, cluster)).collect();
    said.sort_by_key(|(glob, _)| (*glob != cluster, std::cmp::Reverse(glob.len())));
    said.into_iter().map(|(_, entry)| entry).collect()
}

/// Whether a name fits a pattern, in which `*` stands for any text.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn claim(value: serde_json::Value) -> Claim {
        serde_json::from_value(value).unwrap()
    }

    fn access(role: Role, said: serde_json::Value, grants: &[Grant], name: &str) -> Access {
        Access::of(&user("ada"), role, &claim(said), grants, &cluster(name))
    }

    #[test]
    fn nobody_holds_what_was_not_given_by_name() {
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            assert_eq!(access(role, json!({}), &[], "prod"), Access { role, may: Capabilities::default() });
        }
    }

    #[test]
    fn an_admin_everywhere_is_one_of_whom_nothing_says_less() {
        let everywhere =
            |role, said, grants: &[Grant]| is_admin_everywhere(&user("ada"), role, &claim(said), grants);
        let most = |users: &[&str]| Grant {
            users: users.iter().map(|&name| name.to_owned()).collect(),
            clusters: vec!["secret-*".to_owned()],
            role: Some(Role::Viewer),
            ..Grant::default()
        };
        assert!(everywhere(Role::Admin, json!({"prod": {"may": ["force"]}}), &[most(&["bob"])]));
        assert!(!everywhere(Role::Operator, json!({"*": {"role": "admin"}}), &[]));
        assert!(!everywhere(Role::Admin, json!({"secret": {"role": "none"}}), &[]));
        assert!(!everywhere(Role::Admin, json!({}), &[most(&["ada"])]));
        assert!(!everywhere(Role::Admin, json!({}), &[most(&[])]));
    }

    #[test]
    fn a_token_speaks_of_clusters_and_its_closest_word_counts() {
        let said = json!({
            "*": {"role": "viewer"}, "prod-*": {"may": ["force"]}, "prod-a": {"role": "operator", "may": ["bypass-pdb"]},
            "secret": {"role": "none"},
        });
        let on = |name| access(Role::Admin, said.clone(), &[], name);
        let both = [Capability::Force, Capability::BypassPdb].into_iter().collect();
        assert_eq!(on("prod-a"), Access { role: Role::Operator, may: both });
        assert_eq!(
            on("prod-b"),
            Access { role: Role::Viewer, may: Capabilities::default() },
            "viewers hold nothing"
        );
        assert!(!on("secret").may_see() && on("other").may_see());
    }

    #[test]
    fn an_installation_gives_capabilities_and_takes_roles_away() {
        let grants: Vec<Grant> = serde_json::from_value(json!([
            {"users": ["ada"], "clusters": ["prod-*"], "role": "operator", "may": ["control-plane"]},
            {"clusters": ["prod-*"], "role": "viewer"},
            {"roles": ["admin"], "may": ["force"]},
        ]))
        .unwrap();
        let on = |who: &str, role, name| Access::of(&user(who), role, &Claim::new(), &grants, &cluster(name));
        let ada = on("ada", Role::Admin, "prod-a");
        let both = [Capability::ControlPlane, Capability::Force].into_iter().collect();
        assert_eq!(ada, Access { role: Role::Operator, may: both });
        assert_eq!(on("ada", Role::Viewer, "prod-a").role, Role::Viewer, "a grant lifts nobody");
        assert_eq!(on("bob", Role::Operator, "prod-a").role, Role::Viewer);
        assert_eq!(on("bob", Role::Operator, "test").role, Role::Operator);
        let missing = on("bob", Role::Operator, "prod-a").may_act().unwrap_err();
        assert_eq!(missing.to_string(), "the role operator");
    }

    #[test]
    fn what_a_drain_asks_for_by_its_parameters_is_named() {
        let drain = |parameters| ActionSpec::parse("drain", &parameters).unwrap();
        let operator = Access { role: Role::Operator, may: Capabilities::default() };
        assert_eq!(operator.may_submit(&drain(json!({"ignore_daemonsets": true}))), Ok(()));
        let missing = operator.may_submit(&drain(json!({"force": true}))).unwrap_err();
        assert_eq!(missing.to_string(), "the capability force");
        let missing = operator.may_submit(&drain(json!({"bypass_pdb": true}))).unwrap_err();
        assert_eq!(missing, Missing::Capability(Capability::BypassPdb));
        assert_eq!(
            Access { may: Capabilities::all(), ..operator }.may_submit(&drain(json!({"force": true}))),
            Ok(())
        );
    }

    #[test]
    fn words_survive_and_others_are_refused() {
        for capability in Capability::ALL {
            assert_eq!(capability.as_str().parse(), Ok(capability));
            assert_eq!(serde_json::to_value(capability).unwrap(), capability.as_str());
        }
        let error = "evict-all".parse::<Capability>().unwrap_err();
        assert_eq!(error, "\"evict-all\" is no capability: they are force, bypass-pdb, control-plane");
        let set: Capabilities = serde_json::from_value(json!(["control-plane", "force"])).unwrap();
        assert_eq!(serde_json::to_value(set).unwrap(), json!(["force", "control-plane"]));
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in [
            ("*", ""),
            ("a", "a"),
            ("a*", "a"),
            ("*-eu", "prod-eu"),
            ("p*-*u", "prod-eu"),
            ("a*b*c", "a-bb-c"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("a*", "ba"), ("*-eu", "prod-eu2"), ("ab*ba", "aba"), ("", "a")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    proptest! {
        /// However patterns are nested, nothing is found that the letters around the stars do not allow.
        #[test]
        fn a_match_has_the_parts_in_order(parts in prop::collection::vec("[ab]{0,3}", 1..4), name in "[ab]{0,8}") {
            let pattern = parts.join("*");
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(matches(&pattern, &name), plain(&parts, &name));
        }
    }

    /// The obvious way, by trying every place.
    fn plain(parts: &[&str], name: &str) -> bool {
        match parts {
            [] => false,
            [only] => *only == name,
            [first, rest @ ..] => name
                .strip_prefix(first)
                .is_some_and(|left| (0..=left.len()).any(|skip| plain(rest, &left[skip..]))),
        }
    }
}
