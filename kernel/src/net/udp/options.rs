//! Options of udp(7) and udplite(7).

use alloc::vec::Vec;

use abi::{Errno, Result, net};

use super::Endpoint;
use crate::fs::socket::option_int;

/// linux/udp.h.
const UDP_CORK: u32 = 1;
const UDP_NO_CHECK6_TX: u32 = 101;
const UDP_NO_CHECK6_RX: u32 = 102;
pub(super) const UDP_SEGMENT: u32 = 103;
/// net/udplite.h.
const UDPLITE_SEND_CSCOV: u32 = 10;
const UDPLITE_RECV_CSCOV: u32 = 11;
/// Bytes of a header: the least a checksum covers.
const HEADER: i32 = 8;

/// The options of one socket.
#[derive(Default)]
pub(super) struct UdpOptions {
    pub(super) cork: bool,
    /// UDP_SEGMENT in bytes; 0 for none.
    pub(super) segment: u16,
    no_check_send: bool,
    no_check_receive: bool,
    send_coverage: i32,
    receive_coverage: i32,
}

impl Endpoint {
    /// getsockopt(2), for what the socket does not answer by itself.
    pub(super) fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        let lite = self.shared.protocol == net::IPPROTO_UDPLITE as u32;
        let number = match (level, name) {
            (net::SOL_SOCKET, net::SO_ERROR) => {
                let error = self.inbox.take_error();
                error.map_or(0, |error| i32::from(error.number()))
            }
            (net::SOL_SOCKET, _) => return self.shared.socket_option(name),
            (net::SOL_IPV6, net::IPV6_V6ONLY) if self.shared.family == net::AF_INET6 => self.shared.is_only_v6().into(),
            (net::SOL_UDP | net::SOL_UDPLITE, _) => {
                let state = self.state.lock();
                match name {
                    UDP_CORK => state.options.cork.into(),
                    UDP_NO_CHECK6_TX => state.options.no_check_send.into(),
                    UDP_NO_CHECK6_RX => state.options.no_check_receive.into(),
                    UDP_SEGMENT => state.options.segment.into(),
                    UDPLITE_SEND_CSCOV if lite => state.options.send_coverage,
                    UDPLITE_RECV_CSCOV if lite => state.options.receive_coverage,
                    _ => return Err(Errno::ENOPROTOOPT),
                }
            }
            _ => {
                let context = self.context();
                return self.shared.ip.lock().get(context, level, name);
            }
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    /// setsockopt(2), for what the socket does not do by itself.
    pub(super) fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let lite = self.shared.protocol == net::IPPROTO_UDPLITE as u32;
        match (level, name) {
            (net::SOL_SOCKET, _) => {
                self.shared.set_socket_option(name, value)?;
                if let Some(binding) = &self.state.lock().binding {
                    binding.set_limits(self.shared.device(), self.shared.is_only_v6());
                }
                Ok(())
            }
            (net::SOL_IPV6, net::IPV6_V6ONLY) if self.shared.family == net::AF_INET6 => {
                let only = option_int(value)? != 0;
                if self.state.lock().binding.is_some() {
                    return Err(Errno::EINVAL);
                }
                self.shared.set_only_v6(only);
                Ok(())
            }
            (net::SOL_UDP | net::SOL_UDPLITE, _) => {
                let number = option_int(value)?;
                let on = number != 0;
                let coverage = match number {
                    0 => 0,
                    number => number.clamp(HEADER, i32::from(u16::MAX)),
                };
                let mut state = self.state.lock();
                match name {
                    UDP_CORK => {
                        state.options.cork = on;
                        drop(state);
                        return if on { Ok(()) } else { self.uncork() };
                    }
                    UDP_NO_CHECK6_TX => state.options.no_check_send = on,
                    UDP_NO_CHECK6_RX => state.options.no_check_receive = on,
                    UDP_SEGMENT => state.options.segment = u16::try_from(number).map_err(|_| Errno::EINVAL)?,
                    UDPLITE_SEND_CSCOV if lite => state.options.send_coverage = coverage,
                    UDPLITE_RECV_CSCOV if lite => state.options.receive_coverage = coverage,
                    _ => return Err(Errno::ENOPROTOOPT),
                }
                Ok(())
            }
            _ => {
                let context = self.context();
                self.shared.ip.lock().set(context, level, name, value)
            }
        }
    }
}
