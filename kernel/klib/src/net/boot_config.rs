//! What the kernel command line says about addresses: `ip=` as Linux has it
//! (Documentation/admin-guide/nfs/nfsroot.rst).

use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// What an interface is to be given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootConfig {
    /// Whether to ask a DHCP server.
    pub dhcp: bool,
    /// Whether to take part in IPv6.
    pub v6: bool,
    /// An address and its prefix: at once without DHCP, or when no server answers.
    pub address: Option<(Ipv4Addr, u8)>,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The interface it is for; empty for the first.
    pub device: Vec<u8>,
}

impl Default for BootConfig {
    /// Without a word: DHCP.
    fn default() -> Self {
        Self { dhcp: true, v6: true, address: None, gateway: None, dns: Vec::new(), device: Vec::new() }
    }
}

/// The prefix of a netmask; that of the address's class where there is none, as Linux takes it.
fn prefix(mask: Option<Ipv4Addr>, address: Ipv4Addr) -> Option<u8> {
    match mask {
        Some(mask) => {
            let bits = u32::from(mask);
            (bits.leading_ones() + bits.trailing_zeros() >= 32).then(|| bits.leading_ones() as u8)
        }
        None => Some(match address.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        }),
    }
}

impl BootConfig {
    /// Reads the last `ip=` of a command line. The error is the value that makes no sense.
    pub fn parse(command_line: &str) -> Result<Self, &str> {
        let mut config = Self::default();
        for word in command_line.split_ascii_whitespace() {
            if word == "ipv6.disable=1" {
                config.v6 = false;
            }
        }
        let mut values = command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("ip="));
        let Some(value) = values.next_back() else { return Ok(config) };
        let v6 = config.v6;
        let mut fields = value.split(':');
        let first = fields.next().unwrap_or("");
        if !value.contains(':') {
            match first {
                "" | "dhcp" | "on" | "any" | "both" => return Ok(config),
                "off" | "none" => return Ok(Self { dhcp: false, ..config }),
                _ => {}
            }
        }
        let address = |text: &str| -> Result<Option<Ipv4Addr>, &str> {
            if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| value) }
        };
        let client = address(first)?;
        let mut next = || fields.next().unwrap_or("");
        let _server = next();
        let gateway = address(next())?;
        let mask = address(next())?;
        let _host_name = next();
        let device = next().as_bytes().to_vec();
        let dhcp = match next() {
            "off" | "none" => false,
            "dhcp" | "on" | "any" | "both" => true,
            "" => client.is_none(),
            _ => return Err(value),
        };
        let mut dns = Vec::new();
        for _ in 0..2 {
            dns.extend(address(next())?);
        }
        let own = match client.filter(|client| !client.is_unspecified()) {
            Some(client) if client.is_multicast() || client.is_loopback() || client.is_broadcast() => {
                return Err(value);
            }
            Some(client) => Some((client, prefix(mask, client).ok_or(value)?)),
            None => None,
        };
        Ok(Self { dhcp, v6, address: own, gateway, dns, device })
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn words_and_fields_are_read_as_linux_reads_them() {
        let dhcp = BootConfig::default();
        for line in ["", "piton.log=debug", "ip=dhcp", "a ip=any b", "ip=off ip=on", "ip=::::::dhcp"] {
            assert_eq!(BootConfig::parse(line), Ok(dhcp.clone()), "{line}");
        }
        assert!(!BootConfig::parse("ip=off").unwrap().dhcp);
        let full = BootConfig::parse("ip=10.0.0.5::10.0.0.1:255.255.255.0:piton:eth0:off:1.1.1.1:8.8.8.8").unwrap();
        assert_eq!(full.address, Some((Ipv4Addr::new(10, 0, 0, 5), 24)));
        assert_eq!((full.gateway, full.dhcp), (Some(Ipv4Addr::new(10, 0, 0, 1)), false));
        assert_eq!(full.dns, vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)]);
        assert_eq!(full.device, b"eth0");
        let short = BootConfig::parse("ip=192.168.1.7").unwrap();
        assert_eq!((short.address, short.dhcp), (Some((Ipv4Addr::new(192, 168, 1, 7), 24)), false));
        let fallback = BootConfig::parse("ip=172.16.0.9:::255.255.0.0:::dhcp").unwrap();
        assert_eq!((fallback.address, fallback.dhcp), (Some((Ipv4Addr::new(172, 16, 0, 9), 16)), true));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for value in ["300.1.1.1", "10.0.0.1:::255.0.255.0", "10.0.0.1::::::often", "224.0.0.1", "x:y"] {
            let line = std::format!("ip={value}");
            assert_eq!(BootConfig::parse(&line), Err(value));
        }
    }
}
