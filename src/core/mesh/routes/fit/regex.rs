//! Regular expressions that Istio's webhook takes, which asks Go's `regexp`, and Envoy with its RE2.
//!
//! Text flows in, a yes or no flows out. What is let through is what three dialects know: Rust's own (its
//! parser reads the text) and those two. What only Go and RE2 know is refused as well.

use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{
    AssertionKind, Ast, ClassSet, ClassSetItem, ClassUnicode, ClassUnicodeKind, Flag, Flags, FlagsItemKind,
    GroupKind, HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange,
};

/// Longest text (Istio: `validateStringRegexp`).
const LONGEST: usize = 1024;

/// Most times that a part is repeated, counts within counts multiplied (Go: `repeatIsValid`).
const MOST_TIMES: u32 = 1000;

/// General categories that have had these names in every version of Go and RE2.
const CATEGORIES: [&str; 36] = [
    "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl",
    "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
];

/// Scripts likewise: those that paths and headers may well be in.
const SCRIPTS: [&str; 13] = [
    "Arabic",
    "Armenian",
    "Bengali",
    "Common",
    "Cyrillic",
    "Devanagari",
    "Greek",
    "Han",
    "Hangul",
    "Hebrew",
    "Hiragana",
    "Katakana",
    "Latin",
];

pub(super) fn is_taken(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len())
        && Parser::new()
            .parse(text)
            .is_ok_and(|whole| is_common(&whole, MOST_TIMES))
}

/// Whether a part that may be repeated at most so often is written in what the dialects have in common. The
/// parser bounds how deep parts are nested.
fn is_common(part: &Ast, most_times: u32) -> bool {
    match part {
        Ast::Empty(_) | Ast::Dot(_) | Ast::ClassPerl(_) => true,
        Ast::Flags(set) => are_flags(&set.flags),
        Ast::Literal(literal) => is_literal(literal),
        Ast::Assertion(assertion) => matches!(
            assertion.kind,
            AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary
        ),
        Ast::ClassUnicode(class) => is_property(class),
        Ast::ClassBracketed(class) => match &class.kind {
            ClassSet::Item(item) => is_item(item),
            ClassSet::BinaryOp(_) => false,
        },
        Ast::Repetition(repetition) => {
            let times = match &repetition.op.kind {
                RepetitionKind::Range(
                    RepetitionRange::Exactly(times)
                    | RepetitionRange::AtLeast(times)
                    | RepetitionRange::Bounded(_, times),
                ) => (*times).max(1),
                _ => 1,
            };
            // `a**` is `(?:a*)*` in Rust only.
            !matches!(*repetition.ast, Ast::Repetition(_))
                && times <= most_times
                && is_common(&repetition.ast, most_times / times)
        }
        Ast::Group(group) => {
            let is_opened = match &group.kind {
                GroupKind::CaptureIndex(_) => true,
                GroupKind::CaptureName { name, .. } => name
                    .name
                    .bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()),
                GroupKind::NonCapturing(flags) => are_flags(flags),
            };
            is_opened && is_common(&group.ast, most_times)
        }
        Ast::Alternation(either) => either.asts.iter().all(|part| is_common(part, most_times)),
        Ast::Concat(all) => all.asts.iter().all(|part| is_common(part, most_times)),
    }
}

fn are_flags(flags: &Flags) -> bool {
    flags.items.iter().all(|item| match item.kind {
        FlagsItemKind::Negation => true,
        FlagsItemKind::Flag(flag) => matches!(
            flag,
            Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed
        ),
    })
}

fn is_literal(literal: &Literal) -> bool {
    !matches!(
        literal.kind,
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
            | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
    )
}

fn is_property(class: &ClassUnicode) -> bool {
    match &class.kind {
        ClassUnicodeKind::OneLetter(letter) => {
            let mut name = [0; 4];
            let name: &str = letter.encode_utf8(&mut name);
            CATEGORIES.contains(&name)
        }
        ClassUnicodeKind::Named(name) => {
            let name = name.as_str();
            CATEGORIES.contains(&name) || SCRIPTS.contains(&name)
        }
        ClassUnicodeKind::NamedValue { .. } => false,
    }
}

fn is_item(item: &ClassSetItem) -> bool {
    match item {
        ClassSetItem::Empty(_) | ClassSetItem::Ascii(_) | ClassSetItem::Perl(_) => true,
        ClassSetItem::Literal(literal) => is_literal(literal),
        ClassSetItem::Range(range) => is_literal(&range.start) && is_literal(&range.end),
        ClassSetItem::Unicode(class) => is_property(class),
        // To Go the bracket within is a letter, and the class ends with it.
        ClassSetItem::Bracketed(_) => false,
        ClassSetItem::Union(union) => {
            // `[]-a]` is three letters in Rust, and a range in Go.
            let is_range = |three: &[ClassSetItem]| {
                matches!(
                    three,
                    [ClassSetItem::Literal(_), ClassSetItem::Literal(dash), _]
                        if dash.kind == LiteralKind::Verbatim && dash.c == '-'
                )
            };
            !union.items.windows(3).any(is_range) && union.items.iter().all(is_item)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is one in Rust. Go's `regexp` knows the first ones, and refuses the others or reads them in
    /// another way.
    #[test]
    fn a_regular_expression_is_written_where_go_knows_it_too() {
        for known in [
            r"/v[0-9]+(?:\.[0-9]+)?/.*",
            r"(?i)/a(?s-U:b|c)*?$",
            r"(?P<id>[[:alnum:]_-]+)\b/[^/\s]",
            r"/\x7F\x{10FFFF}\t\-",
            r"/\pL[\p{Lu}\P{Greek}]",
            r"/(?:a{10}){100}b{0}",
            "[]a-z-9-]",
        ] {
            assert!(is_taken(known), "{known}");
        }
        for rusts_own in [
            "(?x)/a",
            "(?u:/a)",
            "(?R)/a",
            "/a{1001}",
            "/a{2,1001}",
            "/(?:a{11}){100}",
            "/(?:(?:a{11,})*b){100,}",
            "/a**",
            r"/\p{Alphabetic}",
            r"/\p{sc=Greek}",
            r"/[\p{Alphabetic}]",
            r"/\u{61}",
            r"/\u0061",
            r"/[\U00000061]",
            r"/[a-\u007A]",
            r"/\<a",
            r"/\b{start}a",
            "/[a-z&&b]",
            "/[a-z--b]",
            "/[a-z~~b]",
            "/[a[b]]",
            "/[--+]",
            "/[]-a-b+]",
            "/(?P<a.b>c)",
        ] {
            assert!(regex_syntax::parse(rusts_own).is_ok(), "{rusts_own}");
            assert!(!is_taken(rusts_own), "{rusts_own}");
        }
    }
}
