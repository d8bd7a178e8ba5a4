//! Ranges of addresses as regular expressions, for what can match text only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::fence::name::Cidr;

/// Matches the addresses of a range as Envoy writes them.
pub(super) fn address_pattern(cidr: &Cidr) -> Option<String> {
    match cidr.address {
        IpAddr::V4(address) => Some(ipv4_pattern(address, cidr.prefix)),
        IpAddr::V6(address) => ipv6_pattern(address, cidr.prefix),
    }
}

/// An octet that is partly fixed lists its values.
fn ipv4_pattern(address: Ipv4Addr, prefix: u8) -> String {
    let octets = address
        .octets()
        .into_iter()
        .zip([0u8, 8, 16, 24])
        .map(|(octet, before)| match prefix.saturating_sub(before).min(8) {
            0 => "[0-9]+".to_owned(),
            8 => octet.to_string(),
            fixed => {
                let free = 0xff_u8 >> fixed;
                let values: Vec<_> = (octet & !free..=octet | free)
                    .map(|value| value.to_string())
                    .collect();
                format!("({})", values.join("|"))
            }
        });
    octets.collect::<Vec<_>>().join(r"\.")
}

/// What the groups that are fixed as a whole say, in the usual short form: zeros at their end are written out or stand in
/// a `::`, which may go on behind them. `None` for a range that this form does not tell.
fn ipv6_pattern(address: Ipv6Addr, prefix: u8) -> Option<String> {
    let groups = address.segments();
    let fixed = groups
        .get(..usize::from(prefix / 16))
        .filter(|fixed| fixed.len() < groups.len())?;
    let zeros = fixed.iter().rev().take_while(|group| **group == 0).count();
    let head = &fixed[..fixed.len() - zeros];
    if head.is_empty() || head.windows(2).any(|two| two == [0, 0]) {
        return None;
    }
    let head: Vec<_> = head.iter().map(|group| format!("{group:x}")).collect();
    let zeros = match zeros {
        0 => String::new(),
        zeros => format!("(:|(:0){{{zeros}}})"),
    };
    Some(format!(r"\[{}{zeros}:[0-9a-f:]*\]", head.join(":")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(cidr: &str) -> String {
        address_pattern(&cidr.parse().unwrap()).unwrap_or_default()
    }

    #[test]
    fn ranges_become_patterns() {
        assert_eq!(pattern("10.96.0.0/16"), r"10\.96\.[0-9]+\.[0-9]+");
        assert_eq!(pattern("10.96.0.0/14"), r"10\.(96|97|98|99)\.[0-9]+\.[0-9]+");
        assert_eq!(pattern("10.0.0.0/8"), r"10\.[0-9]+\.[0-9]+\.[0-9]+");
        assert_eq!(
            pattern("10.96.0.128/25").split_once(r"0\.(").unwrap().0,
            r"10\.96\."
        );
    }

    #[test]
    fn ranges_of_ipv6_become_patterns() {
        let short = r"\[fd00:10:96(:|(:0){3}):[0-9a-f:]*\]";
        assert_eq!(pattern("fd00:10:96::/108"), short);
        assert_eq!(pattern("fd00:10:96::/96"), short);
        assert_eq!(
            pattern("fd00:10:96::/112"),
            r"\[fd00:10:96(:|(:0){4}):[0-9a-f:]*\]"
        );
        assert_eq!(pattern("FD00::/108"), r"\[fd00(:|(:0){5}):[0-9a-f:]*\]");
        assert_eq!(pattern("2001:db8:0:5::/64"), r"\[2001:db8:0:5:[0-9a-f:]*\]");
        assert_eq!(pattern("2001:db8:42:1::/52"), r"\[2001:db8:42:[0-9a-f:]*\]");
        for untold in ["::/64", "fd00:0:0:1::/64", "fd00::1/128", "fd00::/8"] {
            assert_eq!(pattern(untold), "", "{untold}");
        }
    }
}
