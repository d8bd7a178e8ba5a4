//! What a stranger wrote, as a log may show it.

use std::fmt;

/// Text of a stranger, escaped and cut for the eyes of a person.
pub(super) struct Excerpt<'a>(pub(super) &'a [u8]);

impl Excerpt<'_> {
    const LENGTH: usize = 100;
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(Self::LENGTH)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} bytes more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_forge_a_line_or_fill_the_log() {
        assert_eq!(
            Excerpt(b"a\"\n\x1b[31m\xff").to_string(),
            r#""a\"\n\x1b[31m\xff""#
        );
        let long = Excerpt(&vec![b'x'; 4_000_000]).to_string();
        assert!(
            long.len() < 200 && long.ends_with("and 3999900 bytes more"),
            "{long}"
        );
    }
}
