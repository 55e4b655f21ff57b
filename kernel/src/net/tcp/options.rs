//! Options of tcp(7).
//!
//! Most of them say how and when packets are sent. Within the machine there are none, so these are kept, checked and
//! told as Linux does, for programs that set them and for a transport with packets, and change nothing else.

use alloc::vec::Vec;

use abi::{Errno, Result, net};
use klib::net::Duration;

use super::{Endpoint, Phase, Role, Transport, max_backlog};
use crate::{fs::socket::option_int, time::SECOND};

/// The states of tcp(7) by their number in /proc/net/tcp and `struct tcp_info`.
pub(super) const ESTABLISHED: u8 = 1;
/// See [`ESTABLISHED`].
pub(super) const SYN_SENT: u8 = 2;
const FIN_WAIT2: u8 = 5;
/// See [`ESTABLISHED`].
pub(super) const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
/// See [`ESTABLISHED`].
pub(super) const LISTEN: u8 = 10;

/// The number of a connection's state.
pub(super) fn number(phase: Phase) -> u8 {
    match phase {
        Phase::Established => ESTABLISHED,
        Phase::FinWait => FIN_WAIT2,
        Phase::CloseWait => CLOSE_WAIT,
        Phase::Closed => CLOSE,
    }
}

/// The longest segment before a connection says otherwise, and on the loopback as Linux tells it: half of the window less
/// the options.
const DEFAULT_SEGMENT: i32 = net::TCP_MSS_DEFAULT as i32;
const LOOPBACK_SEGMENT: i32 = 32741;

/// The longest segment of a connection over a wire.
fn wire_segment(wire: &super::Wire) -> i32 {
    let headers = if wire.key.0.is_v4() { 40 } else { 60 };
    wire.mtu().saturating_sub(headers) as i32
}

/// The names of congestion controls that TCP_CONGESTION takes and tells. Over a wire all connections use Reno's: smoltcp's
/// CUBIC does not build for a kernel.
const CONGESTION: [&[u8]; 2] = [b"cubic", b"reno"];
/// Bytes of the name with its padding (TCP_CA_NAME_MAX).
const CONGESTION_SIZE: usize = 16;
/// The most of TCP_LINGER2 and the default, in seconds.
const FIN_TIMEOUT: i32 = 60;
const MAX_FIN_TIMEOUT: i32 = 120;
/// The longest wait between two tries of a SYN, in seconds.
const MAX_RETRY: u64 = 120;

/// The options of one socket.
#[derive(Clone)]
pub(super) struct TcpOptions {
    no_delay: bool,
    cork: bool,
    quick_ack: bool,
    segment: i32,
    keep_idle: i32,
    keep_interval: i32,
    keep_count: i32,
    syn_count: i32,
    linger2: i32,
    /// Tries of a handshake, as TCP_DEFER_ACCEPT counts.
    defer_accept: i32,
    window_clamp: i32,
    user_timeout: i32,
    fast_open: i32,
    fast_open_connect: bool,
    no_cookie: bool,
    not_sent_low_water: i32,
    inq: bool,
    save_syn: i32,
    thin: bool,
    transmit_delay: i32,
    congestion: usize,
}

/// TCP_DEFER_ACCEPT: seconds as tries, which are 1, 2, 4 ... seconds apart.
fn tries(seconds: i32) -> i32 {
    let (mut tries, mut period, mut wait) = (0, 1, 1);
    if seconds > 0 {
        tries = 1;
        while seconds > period && tries < 255 {
            tries += 1;
            wait = (wait * 2).min(MAX_RETRY as i32);
            period += wait;
        }
    }
    tries
}

/// Tries as seconds.
fn seconds(tries: i32) -> i32 {
    let (mut period, mut wait) = (0, 1);
    for _ in 0..tries {
        period += wait;
        wait = (wait * 2).min(MAX_RETRY as i32);
    }
    period
}

/// What the options say to a connection over a wire.
#[derive(Clone, Copy)]
pub struct Timing {
    /// Short segments are sent at once.
    pub no_delay: bool,
    /// How long it knocks.
    pub connect: Duration,
    /// How long nothing may be acknowledged; `None`: as long as Linux waits.
    pub user: Option<Duration>,
    /// How long it waits for the other end when its socket is closed.
    pub fin: Duration,
    /// When an idle peer is asked, how often, and how many times.
    pub keep_idle: Duration,
    /// See [`keep_idle`](Self::keep_idle).
    pub keep_interval: Duration,
    /// See [`keep_idle`](Self::keep_idle).
    pub keep_count: u32,
}

fn within(number: i32, range: core::ops::RangeInclusive<i32>) -> Result<i32> {
    if range.contains(&number) { Ok(number) } else { Err(Errno::EINVAL) }
}

impl TcpOptions {
    pub(super) fn new() -> Self {
        Self {
            no_delay: false,
            cork: false,
            quick_ack: true,
            segment: 0,
            keep_idle: 7200,
            keep_interval: 75,
            keep_count: 9,
            syn_count: 6,
            linger2: 0,
            defer_accept: 0,
            window_clamp: 0,
            user_timeout: 0,
            fast_open: 0,
            fast_open_connect: false,
            no_cookie: false,
            not_sent_low_water: 0,
            inq: false,
            save_syn: 0,
            thin: false,
            transmit_delay: 0,
            congestion: 0,
        }
    }

    /// Those of a connection that a listener with these took.
    pub(super) fn inherited(&self) -> Self {
        Self { fast_open: 0, save_syn: 0, ..self.clone() }
    }

    /// How long a client knocks: TCP_SYNCNT tries, 1, 2, 4 ... seconds apart, or TCP_USER_TIMEOUT.
    pub(super) fn connect_limit_ns(&self) -> u64 {
        let tries = u32::try_from(self.syn_count).unwrap_or(0);
        let all: u64 = (0..=tries).map(|turn| 1u64.checked_shl(turn).unwrap_or(MAX_RETRY).min(MAX_RETRY)).sum();
        match u64::try_from(self.user_timeout) {
            Ok(limit_ms) if limit_ms > 0 => limit_ms.saturating_mul(SECOND / 1000).min(all * SECOND),
            _ => all * SECOND,
        }
    }

    /// How a connection over a wire keeps time.
    pub(super) fn timing(&self) -> Timing {
        let seconds = |number: i32| Duration::from_secs(u64::try_from(number).unwrap_or(0));
        Timing {
            no_delay: self.no_delay && !self.cork,
            connect: Duration::from_micros(self.connect_limit_ns() / 1000),
            user: u64::try_from(self.user_timeout).ok().filter(|limit| *limit > 0).map(Duration::from_millis),
            fin: seconds(if self.linger2 > 0 { self.linger2 } else { FIN_TIMEOUT }),
            keep_idle: seconds(self.keep_idle),
            keep_interval: seconds(self.keep_interval),
            keep_count: u32::try_from(self.keep_count).unwrap_or(1),
        }
    }

    fn get(&self, name: u32, connected: bool) -> Result<Vec<u8>> {
        let number = match name {
            net::TCP_NODELAY => self.no_delay.into(),
            net::TCP_CORK => self.cork.into(),
            net::TCP_MAXSEG if connected => LOOPBACK_SEGMENT,
            net::TCP_MAXSEG if self.segment != 0 => self.segment,
            net::TCP_MAXSEG => DEFAULT_SEGMENT,
            net::TCP_KEEPIDLE => self.keep_idle,
            net::TCP_KEEPINTVL => self.keep_interval,
            net::TCP_KEEPCNT => self.keep_count,
            net::TCP_SYNCNT => self.syn_count,
            net::TCP_LINGER2 if self.linger2 == 0 => FIN_TIMEOUT,
            net::TCP_LINGER2 => self.linger2,
            net::TCP_DEFER_ACCEPT => seconds(self.defer_accept),
            net::TCP_WINDOW_CLAMP => self.window_clamp,
            net::TCP_QUICKACK => self.quick_ack.into(),
            net::TCP_USER_TIMEOUT => self.user_timeout,
            net::TCP_FASTOPEN => self.fast_open,
            net::TCP_FASTOPEN_CONNECT => self.fast_open_connect.into(),
            net::TCP_FASTOPEN_NO_COOKIE => self.no_cookie.into(),
            net::TCP_NOTSENT_LOWAT => self.not_sent_low_water,
            net::TCP_INQ => self.inq.into(),
            net::TCP_SAVE_SYN => self.save_syn,
            net::TCP_TX_DELAY => self.transmit_delay,
            net::TCP_THIN_LINEAR_TIMEOUTS => self.thin.into(),
            net::TCP_THIN_DUPACK | net::TCP_REPAIR | net::TCP_IS_MPTCP => 0,
            net::TCP_CONGESTION => {
                let mut name = CONGESTION.get(self.congestion).copied().unwrap_or_default().to_vec();
                name.resize(CONGESTION_SIZE, 0);
                return Ok(name);
            }
            net::TCP_ULP | net::TCP_SAVED_SYN => return Ok(Vec::new()),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn set(&mut self, name: u32, value: &[u8], new: bool) -> Result<()> {
        if name == net::TCP_CONGESTION {
            let end = value.iter().take(CONGESTION_SIZE - 1).position(|byte| *byte == 0);
            let wanted = value.get(..end.unwrap_or(value.len().min(CONGESTION_SIZE - 1))).unwrap_or_default();
            if wanted.is_empty() && value.is_empty() {
                return Err(Errno::EINVAL);
            }
            self.congestion = CONGESTION.iter().position(|known| *known == wanted).ok_or(Errno::ENOENT)?;
            return Ok(());
        }
        let number = option_int(value)?;
        let on = number != 0;
        match name {
            net::TCP_NODELAY => self.no_delay = on,
            net::TCP_CORK => self.cork = on,
            net::TCP_MAXSEG if number == 0 => self.segment = 0,
            net::TCP_MAXSEG => self.segment = within(number, 88..=32767)?,
            net::TCP_KEEPIDLE => self.keep_idle = within(number, 1..=32767)?,
            net::TCP_KEEPINTVL => self.keep_interval = within(number, 1..=32767)?,
            net::TCP_KEEPCNT => self.keep_count = within(number, 1..=127)?,
            net::TCP_SYNCNT => self.syn_count = within(number, 1..=127)?,
            net::TCP_LINGER2 if number < 0 => self.linger2 = -1,
            net::TCP_LINGER2 => self.linger2 = number.min(MAX_FIN_TIMEOUT),
            net::TCP_DEFER_ACCEPT => self.defer_accept = tries(number),
            net::TCP_WINDOW_CLAMP if number == 0 && !new => return Err(Errno::EINVAL),
            net::TCP_WINDOW_CLAMP => self.window_clamp = number.max(0),
            net::TCP_QUICKACK => self.quick_ack = on,
            net::TCP_USER_TIMEOUT if number < 0 => return Err(Errno::EINVAL),
            net::TCP_USER_TIMEOUT => self.user_timeout = number,
            net::TCP_FASTOPEN if number < 0 || !new => return Err(Errno::EINVAL),
            net::TCP_FASTOPEN => self.fast_open = number.min(i32::try_from(max_backlog()).unwrap_or(i32::MAX)),
            net::TCP_FASTOPEN_CONNECT if number & !1 != 0 || !new => return Err(Errno::EINVAL),
            net::TCP_FASTOPEN_CONNECT => self.fast_open_connect = on,
            net::TCP_FASTOPEN_NO_COOKIE if number & !1 != 0 || !new => return Err(Errno::EINVAL),
            net::TCP_FASTOPEN_NO_COOKIE => self.no_cookie = on,
            net::TCP_NOTSENT_LOWAT => self.not_sent_low_water = number,
            net::TCP_INQ => self.inq = within(number, 0..=1)? != 0,
            net::TCP_SAVE_SYN => self.save_syn = within(number, 0..=2)?,
            net::TCP_TX_DELAY => self.transmit_delay = number,
            net::TCP_THIN_LINEAR_TIMEOUTS => self.thin = within(number, 0..=1)? != 0,
            net::TCP_THIN_DUPACK => {
                within(number, 0..=1)?;
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}

impl Endpoint {
    /// getsockopt(2), for what the socket does not answer by itself.
    pub(super) fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        let flag = |on: bool| Ok(i32::from(on).to_ne_bytes().to_vec());
        match (level, name) {
            (net::SOL_SOCKET, net::SO_ERROR) => {
                let own = self.state.lock().error.take();
                let error = own.or_else(|| self.transport().and_then(|transport| transport.take_error()));
                Ok(error.map_or(0, |error| i32::from(error.number())).to_ne_bytes().to_vec())
            }
            (net::SOL_SOCKET, net::SO_ACCEPTCONN) => flag(matches!(self.state.lock().role, Role::Listening { .. })),
            (net::SOL_SOCKET, _) => self.shared.socket_option(name),
            (net::SOL_IPV6, net::IPV6_V6ONLY) if self.shared.family == net::AF_INET6 => flag(self.shared.is_only_v6()),
            (net::SOL_TCP, net::TCP_INFO) => Ok(self.info()),
            (net::SOL_TCP, net::TCP_MAXSEG) if let Some(Transport::Wire(wire)) = self.transport() => {
                Ok(wire_segment(&wire).to_ne_bytes().to_vec())
            }
            (net::SOL_TCP, _) => {
                let state = self.state.lock();
                state.options.get(name, matches!(state.role, Role::Connected(..)))
            }
            _ => {
                let context = self.context();
                self.shared.ip.lock().get(context, level, name)
            }
        }
    }

    /// setsockopt(2), for what the socket does not do by itself.
    pub(super) fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        match (level, name) {
            (net::SOL_SOCKET, _) => {
                self.shared.set_socket_option(name, value)?;
                self.tell_limits();
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
            (net::SOL_TCP, _) => {
                let mut state = self.state.lock();
                let new = matches!(state.role, Role::Idle | Role::Listening { .. });
                state.options.set(name, value, new)?;
                let timing = state.options.timing();
                drop(state);
                if let Some(Transport::Wire(wire)) = self.transport() {
                    wire.set_timing(timing);
                }
                Ok(())
            }
            _ => {
                let context = self.context();
                self.shared.ip.lock().set(context, level, name, value)
            }
        }
    }

    /// Tells the table of ports what the socket is limited to.
    fn tell_limits(&self) {
        if let Some(binding) = &self.state.lock().binding {
            binding.set_limits(self.shared.device(), self.shared.is_only_v6());
        }
    }

    /// `struct tcp_info`.
    fn info(&self) -> Vec<u8> {
        /// Offsets of the fields told (linux/tcp.h).
        const MTU_AT: usize = core::mem::offset_of!(net::tcp_info, tcpi_pmtu);
        let mut bytes = alloc::vec![0; size_of::<net::tcp_info>()];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(room) = bytes.get_mut(at..at + value.len()) {
                room.copy_from_slice(value);
            }
        };
        let summary = self.summary();
        put(core::mem::offset_of!(net::tcp_info, tcpi_state), &[summary.number]);
        let transport = self.transport();
        let segment = match &transport {
            Some(Transport::Wire(wire)) => wire_segment(wire),
            _ if matches!(summary.number, CLOSE | SYN_SENT | LISTEN) => DEFAULT_SEGMENT,
            _ => LOOPBACK_SEGMENT,
        };
        put(core::mem::offset_of!(net::tcp_info, tcpi_snd_mss), &segment.to_ne_bytes());
        put(core::mem::offset_of!(net::tcp_info, tcpi_rcv_mss), &DEFAULT_SEGMENT.to_ne_bytes());
        put(core::mem::offset_of!(net::tcp_info, tcpi_advmss), &segment.to_ne_bytes());
        // A segment is on its way for no time; the least timeout Linux has is a fifth of a second, at first a whole one.
        put(core::mem::offset_of!(net::tcp_info, tcpi_rto), &200_000u32.to_ne_bytes());
        put(core::mem::offset_of!(net::tcp_info, tcpi_snd_cwnd), &10u32.to_ne_bytes());
        put(core::mem::offset_of!(net::tcp_info, tcpi_snd_ssthresh), &(i32::MAX as u32).to_ne_bytes());
        put(
            core::mem::offset_of!(net::tcp_info, tcpi_rcv_space),
            &(self.shared.receive_buffer() as u32 / 2).to_ne_bytes(),
        );
        put(core::mem::offset_of!(net::tcp_info, tcpi_pacing_rate), &u64::MAX.to_ne_bytes());
        put(core::mem::offset_of!(net::tcp_info, tcpi_max_pacing_rate), &u64::MAX.to_ne_bytes());
        if summary.number == LISTEN {
            // The queue of connections and its limit (linux/tcp.h, where these fields say something else).
            put(core::mem::offset_of!(net::tcp_info, tcpi_unacked), &(summary.receive_queue as u32).to_ne_bytes());
            if let Role::Listening { backlog, .. } = &self.state.lock().role {
                put(core::mem::offset_of!(net::tcp_info, tcpi_sacked), &(*backlog as u32).to_ne_bytes());
            }
        } else {
            let mtu = match &transport {
                Some(Transport::Wire(wire)) => wire.mtu() as u32,
                _ => crate::net::interface::LOOPBACK.mtu(),
            };
            put(MTU_AT, &mtu.to_ne_bytes());
        }
        if let Some(transport) = transport {
            let (received, sent) = transport.totals();
            put(core::mem::offset_of!(net::tcp_info, tcpi_bytes_received), &received.to_ne_bytes());
            put(core::mem::offset_of!(net::tcp_info, tcpi_bytes_acked), &sent.to_ne_bytes());
            put(core::mem::offset_of!(net::tcp_info, tcpi_bytes_sent), &sent.to_ne_bytes());
        }
        bytes
    }
}
