//! Small texts: ages, amounts, words from elsewhere made harmless, addresses. Pure; `now` is an argument.

use serde_json::Value;

/// A text of a server's or a task's as it may go to a terminal: control characters (escape sequences begin with one) are replaced, line ends
/// become spaces.
#[must_use]
pub fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => ' ',
        // Characters that reorder text, too: a name must not look like another.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.trim_end_matches(['\n', '\r']).chars().map(shown).collect()
}

/// As [`clean`], keeping line ends.
#[must_use]
pub fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// How long ago `then` was, in one unit: `12s`, `5m`, `3h`, `9d`. Moments in the future are `0s`: clocks differ.
#[must_use]
pub fn age(now: i64, then: i64) -> String {
    let seconds = now.saturating_sub(then).max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The age of a moment as Marathon writes it; a dash where it is none.
#[must_use]
pub fn age_of(now: i64, moment: &str) -> String {
    moment.parse::<jiff::Timestamp>().map_or_else(|_| "-".to_owned(), |at| age(now, at.as_millisecond()))
}

/// The age of a moment in seconds since 1970, as Mesos gives them; a dash for zero and nonsense.
#[must_use]
pub fn age_of_seconds(now: i64, seconds: f64) -> String {
    if !(1.0..1e12).contains(&seconds) {
        return "-".to_owned();
    }
    // In range, so exact enough.
    #[allow(clippy::cast_possible_truncation)]
    age(now, (seconds * 1000.0) as i64)
}

/// A number with at most three decimals and no zeros at its end.
#[must_use]
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Mebibytes for people: `128M`, `1.5G`, `2T`.
#[must_use]
pub fn mebibytes(value: f64) -> String {
    let (amount, unit) = match value {
        v if v >= 1024.0 * 1024.0 => (v / (1024.0 * 1024.0), 'T'),
        v if v >= 1024.0 => (v / 1024.0, 'G'),
        v => (v, 'M'),
    };
    let text = format!("{amount:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// Bytes as they stand in a path or query; slashes stay where `slashes`.
#[must_use]
pub fn encode(text: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (slashes && byte == b'/') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A value in a cell: texts without quotes.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        Value::Null => String::new(),
        other => clean(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        for (seconds, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_199, "119m"),
            (7_200, "2h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (-5, "0s"),
        ] {
            assert_eq!(age(1_000_000_000_000 + seconds * 1000, 1_000_000_000_000), want);
        }
        assert_eq!(age(i64::MAX, i64::MIN), "106751991167d");
        assert_eq!(age_of(60_000, "1970-01-01T00:00:30.000Z"), "30s");
        assert_eq!(age_of(60_000, "soon"), "-");
        assert_eq!(age_of_seconds(60_000, 30.5), "29s");
        for odd in [0.0, f64::NAN, f64::INFINITY, -3.0] {
            assert_eq!(age_of_seconds(60_000, odd), "-");
        }
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!([number(0.1), number(2.0), number(0.0626)], ["0.1", "2", "0.063"]);
        assert_eq!(
            [mebibytes(32.0), mebibytes(1536.0), mebibytes(2_097_152.0), mebibytes(0.0)],
            ["32M", "1.5G", "2T", "0M"]
        );
    }

    #[test]
    fn foreign_texts_cannot_move_the_cursor() {
        assert_eq!(clean("a\u{1b}[2Jb\r\u{202e}c\nd\n"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c d");
        assert_eq!(clean_lines("a\u{7}\nb"), "a\u{fffd}\nb");
        assert_eq!(encode("a/b c?ä", true), "a/b%20c%3F%C3%A4");
        assert_eq!(encode("a/b", false), "a%2Fb");
    }
}
