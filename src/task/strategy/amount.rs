//! A number, or a share of something: `5` or `"10%"`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::task::spec::ITEMS_MAX;

/// An amount as it came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AmountDraft {
    /// A number.
    Count(u64),
    /// Meant to be a percentage.
    Text(String),
}

/// So many, or so much of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Amount {
    /// 1..=100,000.
    Count(u32),
    /// 1..=100.
    Percent(u8),
}

impl AmountDraft {
    /// Checks it.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(&self) -> Result<Amount, String> {
        match self {
            Self::Count(n) => u32::try_from(*n)
                .ok()
                .filter(|n| (1..=ITEMS_MAX).contains(&(*n as usize)))
                .map(Amount::Count)
                .ok_or_else(|| format!("must be from 1 to {ITEMS_MAX}")),
            Self::Text(text) => {
                let percent = text.strip_suffix('%').and_then(|percent| percent.parse().ok());
                let percent = percent.filter(|percent| (1..=100).contains(percent)).map(Amount::Percent);
                percent.ok_or_else(|| "must be a number, or a percentage from \"1%\" to \"100%\"".to_owned())
            }
        }
    }
}

impl From<Amount> for AmountDraft {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(n) => Self::Count(n.into()),
            Amount::Percent(_) => Self::Text(amount.to_string()),
        }
    }
}

impl FromStr for AmountDraft {
    type Err = std::convert::Infallible;

    /// As it is written where there are only texts: digits are a number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Text(text.to_owned()), Self::Count))
    }
}

impl Amount {
    /// How many of `whole` that is, rounded up: with waves of 10 % there are at most ten.
    #[must_use]
    pub fn up(self, whole: u32) -> u32 {
        match self {
            Self::Count(n) => n,
            Self::Percent(percent) => share(percent, whole, 99),
        }
    }

    /// How many of `whole` that is, rounded down, but at least one: a limit is not passed by rounding, and one of zero
    /// would let nothing start for ever.
    #[must_use]
    pub fn down(self, whole: u32) -> u32 {
        match self {
            Self::Count(n) => n,
            Self::Percent(percent) => share(percent, whole, 0).max(1),
        }
    }
}

fn share(percent: u8, whole: u32, more: u64) -> u32 {
    let share = (u64::from(percent) * u64::from(whole) + more) / 100;
    u32::try_from(share).unwrap_or(u32::MAX)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_waves_is_rounded_up_and_a_limit_down() {
        assert_eq!((Amount::Percent(10).up(15), Amount::Percent(10).down(15)), (2, 1));
        assert_eq!((Amount::Percent(10).up(200), Amount::Percent(10).down(200)), (20, 20));
        assert_eq!(Amount::Percent(1).down(3), 1, "or nothing would ever start");
        assert_eq!((Amount::Percent(100).up(7), Amount::Count(9).up(7)), (7, 9));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        let parse = |text: &str| text.parse::<AmountDraft>().unwrap().parse();
        assert_eq!(parse("7"), Ok(Amount::Count(7)));
        assert_eq!(parse("7%"), Ok(Amount::Percent(7)));
        for bad in ["0", "0%", "101%", "100001", "-1", "7 %", "", "%", "99999999999999999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
