//! Maintenance windows: at which times of the week items may start, in a time zone.
//!
//! A window that ends at or before the time at which it starts goes on into the next day and belongs to the day on which
//! it starts. Times are those of the wall: where the clocks are set forward a start that is skipped is at the moment of the
//! change, and a window is as much shorter or longer as the clocks say.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// Days looked at for the next opening: a week and the days at its ends.
const DAYS_AHEAD: i32 = 8;

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

/// A time of the week. As text: `Mon-Fri 22:00-04:00 Europe/Berlin`; without days it is every day, without a zone UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// By place in the week, from Monday.
    days: [bool; 7],
    start: Time,
    end: Time,
    zone: TimeZone,
}

/// Where a moment stands among windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Items may start, until then.
    Open(Timestamp),
    /// None may start before then.
    Closed(Timestamp),
    /// None may ever start again. Only at the end of time.
    Never,
}

/// Whether items may start at a moment, and until when that stays so. Windows that meet are one.
#[must_use]
pub fn opening(windows: &[Window], now: Timestamp) -> Opening {
    let mut spans: Vec<(Timestamp, Timestamp)> =
        windows.iter().flat_map(|window| window.spans(now)).collect();
    spans.sort_unstable();
    let mut until = None;
    for (start, end) in &spans {
        let reached = until.unwrap_or(now);
        if *start <= reached && *end > reached {
            until = Some(*end);
        }
    }
    match (until, spans.iter().find(|(start, _)| *start > now)) {
        (Some(until), _) => Opening::Open(until),
        (None, Some((start, _))) => Opening::Closed(*start),
        (None, None) => Opening::Never,
    }
}

impl Window {
    /// When it is open around a moment: from the day before to a week after.
    fn spans(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> + '_ {
        let today = now.to_zoned(self.zone.clone()).date();
        (-1..=DAYS_AHEAD).filter_map(move |day| {
            let date = today.checked_add(day.days()).ok()?;
            if !self.days[date.weekday().to_monday_zero_offset() as usize] {
                return None;
            }
            let last = if self.end <= self.start { date.tomorrow().ok()? } else { date };
            let start: Zoned = date.to_datetime(self.start).to_zoned(self.zone.clone()).ok()?;
            let end: Zoned = last.to_datetime(self.end).to_zoned(self.zone.clone()).ok()?;
            // Both ends may be in the hour that a change of the clocks skips.
            (start < end).then(|| (start.timestamp(), end.timestamp()))
        })
    }

    /// A moment in the words of this window: `Mon 2026-11-23 22:00 Europe/Berlin`.
    #[must_use]
    pub fn say(&self, at: Timestamp) -> String {
        let at = at.to_zoned(self.zone.clone());
        format!("{} {}", at.strftime("%a %Y-%m-%d %H:%M"), self.zone_name())
    }

    fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != [true; 7] {
            write!(f, "{} ", days_text(self.days))?;
        }
        let (start, end) = (self.start.strftime("%H:%M"), self.end.strftime("%H:%M"));
        write!(f, "{start}-{end} {}", self.zone_name())
    }
}

/// Days as text, runs of three and more as a range.
fn days_text(days: [bool; 7]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut day = 0;
    while day < 7 {
        let run = days[day..].iter().take_while(|is_on| **is_on).count();
        match run {
            0 => day += 1,
            1 | 2 => {
                parts.push(DAYS[day].0.to_owned());
                day += 1;
            }
            _ => {
                parts.push(format!("{}-{}", DAYS[day].0, DAYS[day + run - 1].0));
                day += run;
            }
        }
    }
    parts.join(",")
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_times = |word: &&str| word.contains(':');
        let (days, times, zone) = match words[..] {
            [times] if is_times(&times) => (None, times, None),
            [times, zone] if is_times(&times) => (None, times, Some(zone)),
            [days, times] if is_times(&times) => (Some(days), times, None),
            [days, times, zone] if is_times(&times) => (Some(days), times, Some(zone)),
            _ => return Err(format!("is no window: write it like {EXAMPLE:?}")),
        };
        let (start, end) = read_times(times)?;
        let days = days.map_or(Ok([true; 7]), read_days)?;
        let zone = match zone {
            None | Some("UTC") => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| format!("names no time zone {:?}", short(name)))?,
        };
        Ok(Self { days, start, end, zone })
    }
}

const EXAMPLE: &str = "Mon-Fri 22:00-04:00 Europe/Berlin";

/// The first characters of a word that may be of any length.
fn short(word: &str) -> String {
    word.chars().take(40).collect()
}

fn read_times(text: &str) -> Result<(Time, Time), String> {
    let bad = || format!("has no times such as 22:00-04:00: {:?}", short(text));
    let (start, end) = text.split_once('-').ok_or_else(bad)?;
    // The end of a day is written 24:00 too.
    let end = if end == "24:00" { "00:00" } else { end };
    read_time(start).zip(read_time(end)).ok_or_else(bad)
}

fn read_time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<i8>().ok()).flatten()
    };
    Time::new(number(hour)?, number(minute).filter(|_| minute.len() == 2)?, 0, 0).ok()
}

fn read_days(text: &str) -> Result<[bool; 7], String> {
    let day = |word: &str| {
        let place = DAYS.iter().position(|(name, _)| name.eq_ignore_ascii_case(word));
        place
            .ok_or_else(|| format!("has no day {:?}: write Mon, Tue, Wed, Thu, Fri, Sat or Sun", short(word)))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + 7 - first) % 7;
        (first..=first + length).for_each(|day| days[day % 7] = true);
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_is_written_as_people_say_it() {
        for (text, said) in [
            ("Mon-Fri 22:00-04:00 Europe/Berlin", "Mon-Fri 22:00-04:00 Europe/Berlin"),
            ("22:00-4:00", "22:00-04:00 UTC"),
            ("sat,SUN 0:00-24:00 UTC", "Sat,Sun 00:00-00:00 UTC"),
            ("Fri-Mon 1:30-2:00 America/New_York", "Mon,Fri-Sun 01:30-02:00 America/New_York"),
            ("Mon-Sun 01:00-02:00", "01:00-02:00 UTC"),
            ("  Tue   01:00-02:00  ", "Tue 01:00-02:00 UTC"),
        ] {
            assert_eq!(window(text).to_string(), said);
            assert_eq!(window(said), window(text));
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "write it like"),
            ("Mon", "write it like"),
            ("Mon 22-23 UTC", "write it like"),
            ("Mon 25:00-26:00", "has no times"),
            ("Mon 22:00", "has no times"),
            ("Mon 22:0-23:00", "has no times"),
            ("Mon 22:-1-23:00", "has no times"),
            ("Moon 22:00-23:00", "has no day \"Moon\""),
            ("Mon 22:00-23:00 Mars/Olympus", "names no time zone"),
            ("Mon 22:00-23:00 Europe/Berlin now", "write it like"),
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let long = format!("Mon 22:00-23:00 {}", "x".repeat(100_000));
        assert!(long.parse::<Window>().unwrap_err().len() < 200);
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        // 2026-11-23 is a Monday. Berlin is one hour ahead of UTC then.
        let nights = [window("Mon-Fri 22:00-04:00 Europe/Berlin")];
        let (opens, closes) = (at("2026-11-23T21:00:00Z"), at("2026-11-24T03:00:00Z"));
        assert_eq!(opening(&nights, at("2026-11-23T02:00:00Z")), Opening::Closed(opens), "Sunday night");
        assert_eq!(opening(&nights, at("2026-11-23T20:59:59Z")), Opening::Closed(opens));
        assert_eq!(opening(&nights, opens), Opening::Open(closes));
        assert_eq!(opening(&nights, at("2026-11-24T02:59:59Z")), Opening::Open(closes));
        assert_eq!(opening(&nights, closes), Opening::Closed(at("2026-11-24T21:00:00Z")));
        let saturday = at("2026-11-28T02:59:00Z");
        assert_eq!(opening(&nights, saturday), Opening::Open(at("2026-11-28T03:00:00Z")), "Friday's night");
        assert_eq!(opening(&nights, at("2026-11-28T03:00:00Z")), Opening::Closed(at("2026-11-30T21:00:00Z")));
        assert_eq!(nights[0].say(opens), "Mon 2026-11-23 22:00 Europe/Berlin");
    }

    #[test]
    fn windows_that_meet_are_one() {
        let windows = [window("Mon 10:00-12:00"), window("Mon 14:00-15:00"), window("Mon 12:00-14:00")];
        assert_eq!(opening(&windows, at("2026-11-23T11:00:00Z")), Opening::Open(at("2026-11-23T15:00:00Z")));
        let always = [window("00:00-24:00")];
        let Opening::Open(until) = opening(&always, at("2026-11-23T11:00:00Z")) else {
            panic!("it never closes")
        };
        assert!(until >= at("2026-11-30T00:00:00Z"));
    }

    #[test]
    fn the_clocks_are_those_of_the_zone() {
        let night = [window("02:00-03:00 Europe/Berlin")];
        // Clocks go from 02:00 to 03:00 on 2026-03-29: both ends are the same moment, and there is no window.
        assert_eq!(opening(&night, at("2026-03-29T01:00:00Z")), Opening::Closed(at("2026-03-30T00:00:00Z")));
        // And from 03:00 back to 02:00 on 2026-10-25: the hour is there twice.
        let (opens, closes) = (at("2026-10-25T00:00:00Z"), at("2026-10-25T02:00:00Z"));
        assert_eq!(opening(&night, opens), Opening::Open(closes));
    }

    proptest! {
        #[test]
        fn what_is_open_closes_later_and_what_is_closed_opens_later(
            days in prop::collection::vec(0_usize..7, 1..4), start in 0_i8..24, end in 0_i8..24,
            zone in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("America/New_York"), Just("Pacific/Apia")],
            second in 1_700_000_000_i64..1_900_000_000,
        ) {
            let days: Vec<&str> = days.into_iter().map(|day| DAYS[day].0).collect();
            let windows = [window(&format!("{} {start}:00-{end}:30 {zone}", days.join(",")))];
            let now = Timestamp::from_second(second).unwrap();
            match opening(&windows, now) {
                Opening::Open(until) => {
                    prop_assert!(until > now);
                    prop_assert!(!matches!(opening(&windows, until), Opening::Open(_)) || days.len() > 1);
                }
                Opening::Closed(opens) => {
                    prop_assert!(opens > now);
                    prop_assert!(matches!(opening(&windows, opens), Opening::Open(_)));
                    let before = Timestamp::from_second(opens.as_second() - 1).unwrap();
                    prop_assert_eq!(opening(&windows, before), Opening::Closed(opens));
                }
                Opening::Never => prop_assert!(false, "a week has every day"),
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Window>();
        }
    }
}
