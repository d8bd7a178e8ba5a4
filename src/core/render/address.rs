//! Ranges of addresses as regular expressions, for what can match text only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::name::Cidr;

/// Matches the addresses of a range as Envoy writes them, and of IPv6 as RFC 5952 does; in brackets there.
pub(super) fn address_pattern(cidr: &Cidr) -> String {
    match cidr.address {
        IpAddr::V4(address) => ipv4_pattern(address, cidr.prefix),
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

/// What the groups say that are fixed as a whole; a range that ends within a group is taken as wide as the
/// groups before it. The longest run of zeros is written as `::`. Where that is, the groups behind decide, so
/// each place is an alternative.
fn ipv6_pattern(address: Ipv6Addr, prefix: u8) -> String {
    let groups = address.segments();
    let fixed = &groups[..usize::from(prefix / 16).min(7)];
    let spelled = |groups: &[u16]| {
        let groups: Vec<_> = groups.iter().map(|group| format!("{group:x}")).collect();
        groups.join(":")
    };
    let mut alternatives = Vec::new();
    if !fixed.is_empty() {
        alternatives.push(format!("{}:[0-9a-f:]+", spelled(fixed)));
    }
    let mut start = 0;
    for run in fixed.chunk_by(|one, next| (*one == 0) == (*next == 0)) {
        let (before, behind) = (&fixed[..start], &fixed[start + run.len()..]);
        start += run.len();
        if run[0] != 0 {
            continue;
        }
        // Behind the last one, more of it may follow, and no more groups than are free.
        alternatives.push(if behind.is_empty() {
            let free = 8 - fixed.len();
            format!("{}::([0-9a-f]+(:[0-9a-f]+){{0,{}}})?", spelled(before), free - 1)
        } else {
            format!("{}::{}:[0-9a-f:]+", spelled(before), spelled(behind))
        });
    }
    if alternatives.is_empty() {
        // Shorter than a group.
        alternatives.push("[0-9a-f:]+".to_owned());
    }
    format!(r"\[({})\]", alternatives.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(cidr: &str) -> String {
        address_pattern(&cidr.parse().unwrap())
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

    fn is_in(range: &str, address: Ipv6Addr) -> bool {
        let pattern = regex::Regex::new(&format!("^(?:{})$", pattern(range))).unwrap();
        // The standard library writes addresses as RFC 5952 does.
        pattern.is_match(&format!("[{address}]"))
    }

    /// Zeros at all places, in front of the end of the range and behind it.
    #[test]
    fn ranges_of_ipv6_match_what_is_in_them_however_it_is_written() {
        for range in [
            "fd00:10:96::/112",
            "fd00:10:96::/108",
            "2001:db8:0:5::/64",
            "fd01:0:0:1::/64",
            "fd00:0:0:96::/112",
            "fd00:0:0:1:0:0:0:0/96",
            "::/64",
            "0:0:1::/48",
            "fd00::/16",
            "2001:db8:42::/48",
        ] {
            let cidr: Cidr = range.parse().unwrap();
            let IpAddr::V6(first) = cidr.address else {
                unreachable!()
            };
            let fixed = usize::from(cidr.prefix / 16);
            for bits in 0..256_u32 {
                let mut groups = first.segments();
                for (n, group) in groups.iter_mut().enumerate().skip(fixed) {
                    *group = if bits >> n & 1 == 1 { 0xab } else { 0 };
                }
                assert!(is_in(range, groups.into()), "{range} {}", Ipv6Addr::from(groups));
                for outside in 0..fixed {
                    let mut groups = groups;
                    groups[outside] ^= 0x3;
                    let address = Ipv6Addr::from(groups);
                    // IPv4 in IPv6 is written with dots, and no range here is of that kind.
                    assert!(!is_in(range, address), "{range} {address}");
                }
            }
        }
    }

    #[test]
    fn a_range_that_is_shorter_than_a_group_is_all_of_ipv6() {
        assert!(is_in("fd00::/8", "fd12::1".parse().unwrap()));
    }
}
