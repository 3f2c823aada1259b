//! Sizes and durations as people write them.

use tombolo_core::Millis;

/// A text that is no size, duration or number of cpus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAmount {
    #[error("expected a size such as 512MiB, 2GB or 1.5GiB")]
    Size,
    #[error("expected a duration such as 30s, 5m, 2h, 1d or 1h30m")]
    Duration,
    #[error("the duration lacks its unit: write {0}s, {0}m or {0}h")]
    NoUnit(String),
    #[error("expected a number such as 2 or 0.5")]
    Number,
    #[error("the number is too large")]
    TooLarge,
}

/// Bytes: `512MiB`, `2GB`, `1.5GiB`, `2Gi`, `100 kB`, or plain bytes. `K`, `M`, `G`, `T`, `P` are powers of 1000, with
/// an `i` powers of 1024; case does not matter. A fraction of a byte is dropped.
pub fn size(text: &str) -> Result<u64, BadAmount> {
    let text = text.trim();
    let (number, unit) = split_number(text).ok_or(BadAmount::Size)?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (base, letter): (u64, &str) = match unit.strip_suffix('i') {
        Some(letter) if !letter.is_empty() => (1024, letter),
        Some(_) => return Err(BadAmount::Size),
        None => (1000, unit),
    };
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(BadAmount::Size),
    };
    scaled(number, base.pow(power)).ok_or(BadAmount::TooLarge)
}

/// A span: `500ms`, `30s`, `5m`, `2h`, `1d`, `1.5h`, or several from large to small such as `1h30m`. The unit is
/// needed, save for `0`. A fraction of a millisecond is dropped.
pub fn duration(text: &str) -> Result<Millis, BadAmount> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let text = text.trim();
    if text == "0" {
        return Ok(Millis(0));
    }
    let (mut rest, mut total, mut below) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let (number, tail) = split_number(rest).ok_or(BadAmount::Duration)?;
        let tail = tail.trim_start();
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        if letters == 0 && tail.is_empty() && total == 0 {
            return Err(BadAmount::NoUnit(number.to_owned()));
        }
        let unit = UNITS.iter().find(|(name, _)| *name == &tail[..letters]).map(|(_, millis)| *millis);
        let unit = unit.filter(|unit| *unit < below).ok_or(BadAmount::Duration)?;
        let span = scaled(number, unit).ok_or(BadAmount::TooLarge)?;
        total = total.checked_add(span).ok_or(BadAmount::TooLarge)?;
        (rest, below) = (tail[letters..].trim_start(), unit);
    }
    if text.is_empty() { Err(BadAmount::Duration) } else { Ok(Millis(total)) }
}

/// Thousandths of a core: `2` is 2000, `0.5` is 500. What is finer than a thousandth is dropped.
pub(super) fn cpus_milli(text: &str) -> Result<u64, BadAmount> {
    match split_number(text.trim()) {
        Some((number, "")) => scaled(number, 1000).ok_or(BadAmount::TooLarge),
        _ => Err(BadAmount::Number),
    }
}

/// The digits, with at most one point among them, that a text begins with, and the rest.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let fits = number.starts_with(|c: char| c.is_ascii_digit()) && !number.ends_with('.');
    (fits && number.matches('.').count() <= 1).then_some((number, rest))
}

/// A decimal number times a unit, exact but for what is below one.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    // Digits beyond these change nothing at the largest unit.
    const FRACTION_DIGITS_MAX: usize = 18;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS_MAX)];
    let whole: u64 = whole.parse().ok()?;
    let parts: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let below = parts * u128::from(unit) / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(u64::try_from(below).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: u64| assert_eq!(size(text), Ok(bytes), "{text}");
        check("0", 0);
        check("4096", 4096);
        check("12B", 12);
        check("512MiB", 512 << 20);
        check("2GB", 2_000_000_000);
        check("1.5GiB", 3 << 29);
        check("2Gi", 2 << 30);
        check("100 kb", 100_000);
        check("1.1K", 1100);
        check("16383PiB", 16383 << 50);
        for bad in ["", "GiB", "-1GiB", "1.2.3", "1.", ".5G", "2 apples", "2ii", "1i", "1e9", "0x10", "2GiBB"] {
            assert_eq!(size(bad), Err(BadAmount::Size), "{bad}");
        }
        assert_eq!(size("16384PiB"), Err(BadAmount::TooLarge));
        assert_eq!(size("99999999999999999999"), Err(BadAmount::TooLarge));
    }

    #[test]
    fn durations() {
        let check = |text: &str, millis: u64| assert_eq!(duration(text), Ok(Millis(millis)), "{text}");
        check("0", 0);
        check("500ms", 500);
        check("30s", 30_000);
        check("5m", 300_000);
        check("2h", 7_200_000);
        check("1d", 86_400_000);
        check("1.5h", 5_400_000);
        check("1h30m", 5_400_000);
        check("1 h 30 m", 5_400_000);
        for bad in ["", "m", "-5m", "5 minutes", "5M", "1m1m", "30m1h", "1h30", "1..5s"] {
            assert_eq!(duration(bad), Err(BadAmount::Duration), "{bad}");
        }
        assert_eq!(duration("30"), Err(BadAmount::NoUnit("30".into())));
        assert_eq!(duration("99999999999999999d"), Err(BadAmount::TooLarge));
    }

    #[test]
    fn cpus() {
        assert_eq!(cpus_milli("2"), Ok(2000));
        assert_eq!(cpus_milli("0.25"), Ok(250));
        assert_eq!(cpus_milli("0.0001"), Ok(0));
        assert_eq!(cpus_milli("-1"), Err(BadAmount::Number));
        assert_eq!(cpus_milli("two"), Err(BadAmount::Number));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9. kKmMgGiIbBshd-]{0,24}|\\PC{0,24}") {
            let _ = (size(&text), duration(&text), cpus_milli(&text));
        }

        #[test]
        fn whole_numbers_are_exact(count in 0u64..1 << 14, power in 0u32..6) {
            let unit = ["", "KiB", "MiB", "GiB", "TiB", "PiB"][power as usize];
            prop_assert_eq!(size(&format!("{count}{unit}")), Ok(count * 1024u64.pow(power)));
        }
    }
}
