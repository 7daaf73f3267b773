//! The hash of a plan: what counts, in one fixed form.
//!
//! What counts is what would be done: the request; each node's name, UID, outcome and every value that would be written
//! with the value before; the workloads whose pods would be evicted, a pod of nobody by its own name and UID; the order and
//! the waves; that nothing would be done at all; and the rights that are missing. What does not: heartbeats, conditions,
//! versions, labels and taints that stay, whether a budget has room just now, which pod of a workload it is, words,
//! warnings and the estimate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{FieldChange, NodePlan, Outcome, Plan, Right};

/// Of the canonical form. It grows when what counts changes: plans of different versions never have the same hash.
const VERSION: u32 = 1;

/// The hash of a plan: 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlanHash([u8; 32]);

impl PlanHash {
    /// Of no plan: stands in until one is sealed.
    pub(super) const NONE: Self = Self([0; 32]);
}

impl fmt::Display for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl From<PlanHash> for String {
    fn from(hash: PlanHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for PlanHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for PlanHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHY: &str = "must be the hash of a plan: 64 hexadecimal digits";
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|n| u8::try_from(n).ok()).ok_or(WHY);
        let mut bytes = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(WHY);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    digits.map(char::from).collect()
}

#[derive(Serialize)]
struct CanonicalNode<'a> {
    name: &'a str,
    uid: Option<&'a str>,
    outcome: Outcome,
    changes: Vec<&'a FieldChange>,
    evicts: Vec<&'a str>,
}

#[derive(Serialize)]
struct CanonicalPlan<'a> {
    version: u32,
    request: String,
    refused: bool,
    missing: Vec<&'a Right>,
    waves: &'a [u32],
    nodes: Vec<&'a str>,
}

/// What stands for all that would be done to a node.
pub(super) fn digest(node: &NodePlan) -> String {
    let mut changes: Vec<_> = node.changes.iter().collect();
    changes.sort();
    let mut evicts: Vec<_> = node.evicts.iter().map(String::as_str).collect();
    evicts.sort_unstable();
    let (name, uid) = (node.name.as_str(), node.uid.as_deref());
    hash(&CanonicalNode { name, uid, outcome: node.outcome, changes, evicts }).to_string()
}

/// The hash of a plan whose nodes have their digests.
pub(super) fn seal(plan: &Plan) -> PlanHash {
    let mut missing: Vec<_> = plan.missing.iter().collect();
    missing.sort();
    hash(&CanonicalPlan {
        version: VERSION,
        request: hex(&plan.request),
        refused: plan.refused.is_some(),
        missing,
        waves: &plan.waves,
        nodes: plan.nodes.iter().map(|node| node.digest.as_str()).collect(),
    })
}

fn hash(canonical: &impl Serialize) -> PlanHash {
    let bytes = serde_json::to_vec(canonical).expect("a plan is plain texts, numbers and lists");
    PlanHash(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod unit {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<PlanHash>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_hash_survives_its_text(bytes: [u8; 32]) {
            let hash = PlanHash(bytes);
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
            let json = serde_json::to_string(&hash).unwrap();
            prop_assert_eq!(serde_json::from_str::<PlanHash>(&json).unwrap(), hash);
        }
    }
}
