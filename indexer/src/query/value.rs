//! Values as what they are: numbers and quantities, times, and all else as text.
//!
//! Quantities are exact: billionths as integers, so that `500m`, `0.5` and `0.50` are one value, and `1Gi` is 1,073,741,824.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A quantity in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

/// Larger powers than anything that is counted.
const LARGEST_EXPONENT: u32 = 20;
const BILLION: i128 = 1_000_000_000;

impl Quantity {
    /// The value times a billion.
    pub fn billionths(self) -> i128 {
        self.0
    }

    /// Reads `3`, `-0.5`, `1e3`, `500m`, `1Gi`. None if it is no quantity, or one too large to be told apart from others.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text
            .char_indices()
            .find(|(at, character)| {
                !(character.is_ascii_digit() || *character == '.' || (*at == 0 && matches!(character, '+' | '-')))
            })
            .map_or(text.len(), |(at, _)| at);
        let (number, unit) = text.split_at(end);
        let base = decimal(number)?;
        scale(base, unit).map(Self)
    }
}

fn decimal(text: &str) -> Option<i128> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 20 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Finer than a billionth is rounded up, as Kubernetes does.
    let kept = &fraction[..fraction.len().min(9)];
    let mut billionths: i128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    billionths *= 10_i128.pow(9 - u32::try_from(kept.len()).ok()?);
    if fraction.bytes().skip(9).any(|digit| digit != b'0') {
        billionths += 1;
    }
    let value = whole.checked_mul(BILLION)?.checked_add(billionths)?;
    Some(if is_negative { -value } else { value })
}

fn scale(base: i128, unit: &str) -> Option<i128> {
    let binary = |power: u32| base.checked_mul(1024_i128.checked_pow(power)?);
    let decimal = |power: i32| match power {
        0.. => base.checked_mul(10_i128.checked_pow(power.unsigned_abs())?),
        _ => Some(base / 10_i128.checked_pow(power.unsigned_abs())?),
    };
    match unit {
        "" => Some(base),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
            (exponent.unsigned_abs() <= LARGEST_EXPONENT).then(|| decimal(exponent)).flatten()
        }
    }
}

/// A moment: fixed, or some time before or after the moment of asking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    /// As it is written.
    At(Timestamp),
    /// `now-1d`: so long after now, usually less than nothing.
    FromNow(SignedDuration),
}

impl Moment {
    /// Reads `2026-01-02`, `2026-01-02T03:04:05Z`, `now`, `now-1d`, `now+2h30m`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(shift) = text.strip_prefix("now") {
            return duration(shift).map(Self::FromNow);
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return Some(Self::At(time));
        }
        let date: Date = text.parse().ok().filter(|_| text.len() == "2026-01-02".len())?;
        date.to_zoned(TimeZone::UTC).ok().map(|midnight| Self::At(midnight.timestamp()))
    }

    /// The moment itself, seen from `now`.
    pub fn seen_from(&self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => *time,
            // Farther than time is counted lies at its end.
            Self::FromNow(shift) => {
                now.checked_add(*shift).unwrap_or(if shift.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
            }
        }
    }
}

/// `-1d`, `+2h30m`, or nothing.
fn duration(text: &str) -> Option<SignedDuration> {
    if text.is_empty() {
        return Some(SignedDuration::ZERO);
    }
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+')?),
    };
    if rest.is_empty() {
        return None;
    }
    let mut seconds: i64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit())?;
        let (number, behind) = rest.split_at(end);
        let unit = match behind.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<i64>().ok()?.checked_mul(unit)?)?;
        rest = &behind[1..];
    }
    Some(SignedDuration::from_secs(sign * seconds))
}

/// The end of a range, read as what it looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// A number or quantity, as it was written.
    Quantity(Quantity, String),
    /// A time, as it was written.
    Moment(Moment, String),
    /// Anything else.
    Text(String),
}

impl Literal {
    /// Reads a value.
    pub fn read(text: &str) -> Self {
        if let Some(quantity) = Quantity::parse(text) {
            return Self::Quantity(quantity, text.to_owned());
        }
        match Moment::parse(text) {
            Some(moment) => Self::Moment(moment, text.to_owned()),
            None => Self::Text(text.to_owned()),
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        match self {
            Self::Quantity(_, text) | Self::Moment(_, text) | Self::Text(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("500m", "0.5")]
    #[case("0.50", "0.5")]
    #[case("1Gi", "1073741824")]
    #[case("1k", "1000")]
    #[case("1e3", "1000")]
    #[case("-2", "-2.0")]
    #[case("+3", "3")]
    #[case(".5", "500000u")]
    #[case("100n", "0.0000001")]
    fn the_same_quantity_may_be_written_in_several_ways(#[case] one: &str, #[case] other: &str) {
        assert_eq!(Quantity::parse(one).unwrap(), Quantity::parse(other).unwrap());
    }

    #[rstest]
    #[case("")]
    #[case("Gi")]
    #[case("1.2.3")]
    #[case("v1")]
    #[case("1x")]
    #[case("1e999")]
    #[case("999999999999999999999999")]
    fn what_is_no_quantity_is_text(#[case] text: &str) {
        assert_eq!(Quantity::parse(text), None);
    }

    #[test]
    fn moments_are_fixed_or_seen_from_now() {
        let now: Timestamp = "2026-03-04T12:00:00Z".parse().unwrap();
        let seen = |text: &str| Moment::parse(text).unwrap().seen_from(now).to_string();
        assert_eq!(seen("now"), "2026-03-04T12:00:00Z");
        assert_eq!(seen("now-1d"), "2026-03-03T12:00:00Z");
        assert_eq!(seen("now+1h30m"), "2026-03-04T13:30:00Z");
        assert_eq!(seen("2026-01-02"), "2026-01-02T00:00:00Z");
        assert_eq!(seen("2026-01-02T03:04:05+01:00"), "2026-01-02T02:04:05Z");
        for wrong in ["nowish", "now-", "now-1y", "now-d", "yesterday", "2026"] {
            assert_eq!(Moment::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn quantities_are_ordered_as_numbers(one in -1_000_000i64..1_000_000, other in -1_000_000i64..1_000_000) {
            let (left, right) = (Quantity::parse(&one.to_string()), Quantity::parse(&format!("{other}000m")));
            prop_assert_eq!(left.cmp(&right), one.cmp(&other));
        }

        #[test]
        fn no_text_makes_them_panic(text in ".{0,40}") {
            let _ = Literal::read(&text);
        }
    }
}
