//! Moments as Marathon writes them: `2024-05-01T12:00:00.123Z`. Versions are such moments, too.

use jiff::Timestamp;
use plenum_api::Millis;

/// The moment `wall` (milliseconds since the Unix epoch) as text. Moments that no calendar has are clamped.
pub fn text(wall: Millis) -> String {
    let millis = i64::try_from(wall.0).unwrap_or(i64::MAX).min(253_402_207_200_000);
    let at = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The moment a text means, if it is one.
pub fn parse(text: &str) -> Option<Millis> {
    let at: Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(text(Millis(1_714_564_800_123)), "2024-05-01T12:00:00.123Z");
        assert_eq!(text(Millis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(parse("2024-05-01T12:00:00.123Z"), Some(Millis(1_714_564_800_123)));
        assert_eq!(parse("soon"), None);
        assert!(text(Millis(u64::MAX)).ends_with('Z'));
    }
}
