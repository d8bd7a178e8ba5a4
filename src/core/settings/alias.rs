//! Further hosts that come into a scope along with a host: the aliases of the chart.
//!
//! Flows in: a pattern and a template, as the operator writes them, and a host. Flows out: the host's alias.
//! Whether the mesh has that is not asked here.

use std::str::FromStr;

use regex::Regex;

use crate::name::Name;

/// How a further host is made of those that match a pattern.
#[derive(Clone, Debug)]
pub struct Alias {
    /// The pattern, as written.
    pub pattern: Name,
    whole: Regex,
    template: String,
}

impl Alias {
    /// What it makes of a host: a name, and never a wildcard.
    pub(crate) fn of(&self, host: &str) -> Option<Name> {
        let groups = self.whole.captures(host)?;
        let mut name = String::new();
        groups.expand(&self.template, &mut name);
        (name != host && !name.contains('*')).then(|| name.into())
    }
}

/// Reads `PATTERN=TEMPLATE`: no host has an equals sign.
impl FromStr for Alias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let written = text.split_once('=');
        let written = written.filter(|(pattern, template)| !pattern.is_empty() && !template.is_empty());
        let (pattern, template) = written.ok_or_else(|| {
            format!(r"{text:?} is not PATTERN=TEMPLATE: write (.+)\.books\.svc\.cluster\.local=$1.archive.svc.cluster.local")
        })?;
        // By itself first: in brackets, "a)(b" would be fine.
        let whole = Regex::new(pattern).and_then(|_| Regex::new(&format!("^(?:{pattern})$")));
        let whole = whole.map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default();
            let reason = reason.trim_start_matches("error: ");
            format!("{pattern:?} is not a regular expression: {reason}")
        })?;
        if template.contains('*') {
            return Err(format!("{template:?} is a wildcard: write the name of one host"));
        }
        // It would stand for nothing, and the host would be another one than its author means.
        if let Some(unknown) = groups_in(template).find(|group| !has_group(&whole, group)) {
            return Err(format!(
                "{template:?} names the group {unknown:?}, which {pattern:?} does not have: write ${{1}} or ${{name}}"
            ));
        }
        Ok(Self {
            pattern: pattern.into(),
            whole,
            template: template.to_owned(),
        })
    }
}

/// The groups that a template names, as `Captures::expand` reads them: `$1a` is the group `1a`. A dollar that
/// names none has no place in a host, and counts as one without a name.
fn groups_in(template: &str) -> impl Iterator<Item = &str> {
    template.split('$').skip(1).map(|after| {
        let in_braces = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let bare = || &after[..after.find(|c| !is_word(c)).unwrap_or(after.len())];
        in_braces.map_or_else(bare, |(name, _)| name)
    })
}

fn has_group(pattern: &Regex, group: &str) -> bool {
    let is_number = group.parse::<usize>().is_ok_and(|at| at < pattern.captures_len());
    is_number || pattern.capture_names().flatten().any(|name| name == group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, host: &str) -> Option<String> {
        let alias = text.parse::<Alias>().unwrap();
        alias.of(host).map(|name| name.to_string())
    }

    #[test]
    fn a_template_makes_a_host_of_the_groups_of_the_pattern() {
        let reviews = "reviews.books.svc.cluster.local";
        let canary = Some("reviews-canary.books.svc.cluster.local".to_owned());
        for text in [
            r"^(.+)\.(.+)\.svc\.cluster\.local$=$1-canary.$2.svc.cluster.local",
            r"([^.]+)\.([^.]+)\.(.+)=${1}-canary.$2.$3",
            r"(?P<service>[^\.]+)\.(?P<rest>.+)=$service-canary.$rest",
            "reviews.books.svc.cluster.local=reviews-canary.books.svc.cluster.local",
        ] {
            assert_eq!(of(text, reviews), canary, "{text}");
        }
    }

    #[test]
    fn a_pattern_is_about_the_whole_name() {
        for pattern in [
            "reviews",
            r"books\.svc",
            "reviews|books",
            r"reviews\.books\.svc\.cluster",
        ] {
            let text = format!("{pattern}=api.example.com");
            assert_eq!(of(&text, "reviews.books.svc.cluster.local"), None, "{text}");
        }
        assert_eq!(of("a|ab=c", "ab").as_deref(), Some("c"));
    }

    #[test]
    fn no_host_is_its_own_alias_and_none_is_a_wildcard() {
        assert_eq!(of(r"(.+)=$1", "api.example.com"), None);
        assert_eq!(of(r"(.+)\.example\.com=$1.example.org", "*.example.com"), None);
    }

    #[test]
    fn an_alias_that_cannot_work_says_what_is_wrong() {
        for (text, said) in [
            ("reviews", "is not PATTERN=TEMPLATE"),
            ("=a", "is not PATTERN=TEMPLATE"),
            ("a=", "is not PATTERN=TEMPLATE"),
            ("(a=b", r#""(a" is not a regular expression: unclosed group"#),
            ("a)(b=c", "is not a regular expression: unopened group"),
            ("a=*.example.com", r#""*.example.com" is a wildcard"#),
            ("(a)=$2.example.com", r#"names the group "2""#),
            ("(a)=$1b.example.com", r#"names the group "1b""#),
            ("(a)=${name}.example.com", r#"names the group "name""#),
            ("(a)=a$.example.com", r#"names the group """#),
            ("(a)=$$1", r#"names the group """#),
            ("(a){1000}{1000}{1000}=b", "is not a regular expression: "),
        ] {
            let error = text.parse::<Alias>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }
}
