//! Interfaces with a wire: the stack of each, and the thread that drives it.
//!
//! An [`Ethernet`] joins a driver's device with a stack of `klib::net`. Its thread sleeps until the device interrupts, a
//! deadline of the stack or of a connection comes, or a socket asks; whoever sends drives the stack itself, for its own
//! packet, so that a packet out costs no change of threads. All of it is under one lock, which is given up between
//! batches; while frames are taken in the device does not interrupt.
//!
//! Lock order: the stack's lock comes before a socket's, a connection's and the table of ports; so nobody asks a stack
//! with one of those held. What a socket wants to know with its own lock held is in [`interface`](super::interface).

mod connections;
mod statistics;

use alloc::{boxed::Box, format, sync::Arc};
use core::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use hal::{Arch as _, Net, NetCounts, NetEvents};
use klib::net::{
    Instant,
    boot_config::BootConfig,
    icmp,
    neighbours::Neighbour,
    packet::{Outgoing, Packet},
    routes::Route,
    stack::{Host, NotSent, Stack},
};

use self::connections::Connections;
pub(super) use self::connections::{Begin, Key};
pub use self::statistics::{netstat, snmp};
use super::tcp::Wire;
use super::{
    address::IpAddress,
    interface::{self, Interface},
    multicast, proc, raw, udp,
};
use crate::{
    arch::Arch,
    command_line,
    sync::{IrqLock, PlainLock},
    task::{
        process::Process,
        scheduler,
        thread::Thread,
        wait::{WaitQueue, wait_until},
    },
};

/// Frames taken in before others get the lock.
const BATCH: usize = 64;
/// Batches before other threads get the CPU.
const BATCHES: usize = 4;
/// What a DHCP server is told of us.
const HOST_NAME: &str = "piton";

/// Devices found before there are threads.
static FOUND: IrqLock<alloc::vec::Vec<Arc<dyn Net>>> = IrqLock::new(alloc::vec::Vec::new());

/// Takes a device from its driver; [`start`] makes an interface of it.
pub fn add_device(device: Arc<dyn Net>) {
    FOUND.lock().push(device);
}

/// Whether there is a device.
pub fn is_there() -> bool {
    !FOUND.lock().is_empty()
}

/// Makes the interfaces and starts their threads.
pub fn start(kernel: &Arc<Process>) {
    let devices = core::mem::take(&mut *FOUND.lock());
    if devices.is_empty() {
        return;
    }
    let config = BootConfig::parse(command_line::get()).unwrap_or_else(|value| {
        log::warn!("ip={value}: makes no sense, DHCP is used");
        BootConfig::default()
    });
    for device in devices {
        let Some(interface) = interface::add_ethernet(device.mac(), device.mtu()) else {
            log::warn!("more network devices than interfaces");
            return;
        };
        let named = config.device.is_empty() && interface.index == 2 || config.device == interface.name.as_bytes();
        // What is meant for another interface leaves this one to DHCP.
        let own = if named || config.address.is_none() { config.clone() } else { BootConfig::default() };
        let ethernet: &'static Ethernet = Box::leak(Box::new(Ethernet::new(interface, device, own)));
        interface.connect(ethernet);
        proc::add_interface(interface);
        ethernet.device.start(Arc::new(Interrupt(ethernet)));
        let argument = core::ptr::from_ref(ethernet).expose_provenance();
        match Thread::kernel(kernel.clone(), &format!("net/{}", interface.name), serve, argument) {
            Ok(thread) => {
                // Packets come before programs.
                thread.set_nice(-20);
                scheduler::start(thread);
            }
            Err(error) => log::error!("{}: no thread: {error}", interface.name),
        }
    }
}

/// What is under the lock.
struct Inner {
    stack: Stack,
    connections: Connections,
    /// The link as it was last told to the stack.
    link: bool,
    /// When the thread will look again by itself; `None`: never.
    sleeps_until: Option<Instant>,
}

/// An interface with a wire.
pub struct Ethernet {
    /// Its name, number, addresses.
    pub interface: &'static Interface,
    device: Arc<dyn Net>,
    inner: PlainLock<Inner>,
    /// Woken when there is something for the thread to do.
    work: Arc<WaitQueue>,
    has_work: AtomicBool,
    /// Woken when the device has room again, for who sends datagrams.
    room: Arc<WaitQueue>,
    /// Somebody waits for room.
    is_full: AtomicBool,
}

struct Interrupt(&'static Ethernet);

impl NetEvents for Interrupt {
    fn interrupt(&self) {
        self.0.wake();
    }
}

extern "C" fn serve(argument: usize) -> ! {
    scheduler::finish_switch();
    Arch::enable_interrupts();
    let pointer = core::ptr::with_exposed_provenance::<Ethernet>(argument);
    // SAFETY: `start` passes a leaked `Ethernet`.
    let ethernet: &'static Ethernet = unsafe { &*pointer };
    ethernet.serve()
}

impl Ethernet {
    fn new(interface: &'static Interface, device: Arc<dyn Net>, config: BootConfig) -> Self {
        let now = interface::now();
        let stack = Stack::new(device.mac(), device.mtu(), config, HOST_NAME, random(), now);
        Self {
            interface,
            device,
            inner: PlainLock::new(Inner {
                stack,
                connections: Connections::default(),
                link: false,
                sleeps_until: None,
            }),
            work: Arc::new(WaitQueue::new()),
            has_work: AtomicBool::new(true),
            room: Arc::new(WaitQueue::new()),
            is_full: AtomicBool::new(false),
        }
    }

    /// Makes the thread look again.
    fn wake(&self) {
        self.has_work.store(true, Ordering::Release);
        self.work.wake_all();
    }

    fn serve(&'static self) -> ! {
        loop {
            let deadline = self.with(|inner, _| inner.deadline());
            let deadline_ns = deadline.map(|at| (at.total_micros().max(0) as u64).saturating_mul(1000));
            // Nothing interrupts a kernel thread's wait but its deadline.
            let _ =
                wait_until(&[&self.work], deadline_ns, || self.has_work.swap(false, Ordering::Acquire).then_some(()));
            self.run();
        }
    }

    /// Takes in what came and does what is due.
    fn run(&'static self) {
        self.device.set_receive_interrupt(false);
        let mut batches = 0;
        loop {
            let mut came = 0;
            self.with(|inner, now| {
                inner.check_link(self, now);
                while came < BATCH {
                    let took = self.device.receive(&mut |frame| {
                        self.interface.count_received(frame.len());
                        inner.input(self, frame, now);
                    });
                    if !took {
                        break;
                    }
                    came += 1;
                }
                inner.poll(self, now);
            });
            if self.is_full.load(Ordering::Acquire) && self.device.want_room() {
                self.is_full.store(false, Ordering::Release);
                self.room.wake_all();
                self.with(|inner, now| inner.retry(self, now));
            }
            if came < BATCH {
                if !self.device.set_receive_interrupt(true) {
                    return;
                }
                self.device.set_receive_interrupt(false);
            }
            batches += 1;
            if batches % BATCHES == 0 {
                scheduler::yield_now();
            }
        }
    }

    /// Does something with the stack and lets the device send what came of it.
    fn with<T>(&'static self, act: impl FnOnce(&mut Inner, Instant) -> T) -> T {
        let result = {
            let mut inner = self.inner.lock();
            let result = act(&mut inner, interface::now());
            if inner.stack.take_changed() {
                inner.publish(self);
            }
            result
        };
        self.device.flush();
        result
    }

    /// Sends a packet of a socket. Waits for room unless `may_wait` says not to: EAGAIN then.
    pub fn send(&'static self, head: &Outgoing, payload: &[u8]) -> Result<(), NotSent> {
        let (sent, earlier) = self.with(|inner, now| {
            let Inner { stack, connections, .. } = inner;
            let sent = stack.send(&mut Machine { ethernet: self, connections }, head, payload, now);
            (sent, inner.is_earlier())
        });
        if earlier {
            self.wake();
        }
        if sent == Err(NotSent::NoRoom) {
            self.interface.count_unsent();
            self.wants_room();
        }
        sent
    }

    /// What is woken when the device has room again.
    pub fn room(&self) -> &Arc<WaitQueue> {
        &self.room
    }

    /// Whether the device has room, or would not say.
    pub fn has_room(&self) -> bool {
        !self.is_full.load(Ordering::Acquire)
    }

    fn wants_room(&self) {
        self.is_full.store(true, Ordering::Release);
        if self.device.want_room() {
            self.wake();
        }
    }

    /// The machine is in a group now, or no more.
    pub fn set_group(&'static self, group: IpAddress, join: bool) {
        self.with(|inner, now| {
            let Inner { stack, connections, .. } = inner;
            stack.set_group(&mut Machine { ethernet: self, connections }, group.into(), join, now);
        });
        self.wake();
    }

    /// Lets a connection send what its socket has given it.
    pub(super) fn drive(&'static self, wire: &Arc<Wire>) {
        let earlier = self.with(|inner, now| {
            let Inner { stack, connections, .. } = inner;
            Machine { ethernet: self, connections }.drive(stack, wire, now);
            inner.is_earlier()
        });
        if earlier {
            self.wake();
        }
    }

    /// Begins a connection.
    pub(super) fn begin(&'static self, begin: Begin) -> Option<Arc<Wire>> {
        let wire = self.with(|inner, now| inner.connections.begin(self, begin, &inner.stack, now));
        if let Some(wire) = &wire {
            self.drive(wire);
        }
        wire
    }

    /// A program gives the interface an address, or takes one: whether that was possible.
    pub fn set_address(&'static self, ip: IpAddress, prefix: u8, give: bool) -> bool {
        let done = self.with(|inner, now| {
            let Inner { stack, connections, .. } = inner;
            stack.set_address(&mut Machine { ethernet: self, connections }, ip.into(), prefix, give, now)
        });
        self.wake();
        done
    }

    /// A program adds a route, or takes one away: whether that was possible.
    pub fn set_route(&'static self, route: Route, add: bool) -> bool {
        self.with(|inner, _| inner.stack.set_route(route, add))
    }

    /// The neighbours.
    pub fn neighbours(&'static self) -> alloc::vec::Vec<Neighbour> {
        self.with(|inner, _| inner.stack.neighbours().iter().collect())
    }

    /// What the device counted.
    pub fn device_counts(&self) -> NetCounts {
        self.device.counts()
    }
}

/// A number that nobody outside can guess.
fn random() -> u64 {
    let mut bytes = [0; 8];
    crate::rng::fill_insecure(&mut bytes);
    u64::from_ne_bytes(bytes)
}

impl Inner {
    fn check_link(&mut self, ethernet: &'static Ethernet, now: Instant) {
        let link = ethernet.device.link_is_up();
        if link != self.link {
            self.link = link;
            log::info!("{}: link {}", ethernet.interface.name, if link { "up" } else { "down" });
            let Self { stack, connections, .. } = self;
            stack.set_link(&mut Machine { ethernet, connections }, link, now);
        }
    }

    fn input(&mut self, ethernet: &'static Ethernet, frame: &[u8], now: Instant) {
        let Self { stack, connections, .. } = self;
        stack.input(&mut Machine { ethernet, connections }, frame, now);
    }

    fn poll(&mut self, ethernet: &'static Ethernet, now: Instant) {
        let Self { stack, connections, .. } = self;
        let mut machine = Machine { ethernet, connections };
        stack.poll(&mut machine, now);
        machine.poll_connections(stack, now);
    }

    /// The device has room again for the connections that found none.
    fn retry(&mut self, ethernet: &'static Ethernet, now: Instant) {
        let Self { stack, connections, .. } = self;
        Machine { ethernet, connections }.retry(stack, now);
    }

    /// When the thread has something to do next; it is about to sleep until then.
    fn deadline(&mut self) -> Option<Instant> {
        self.stack.take_asked();
        self.sleeps_until = match (self.stack.deadline(), self.connections.deadline()) {
            (Some(stack), Some(connections)) => Some(stack.min(connections)),
            (stack, connections) => stack.or(connections),
        };
        self.sleeps_until
    }

    /// Whether the thread has to look again before it would by itself. Of what the stack itself does, only a question
    /// for a neighbour comes out of a packet that is sent.
    fn is_earlier(&mut self) -> bool {
        let until = self.sleeps_until;
        let next = self.connections.deadline();
        self.stack.take_asked() || next.is_some_and(|next| until.is_none_or(|until| next < until))
    }

    /// Says what changed to whom asks without the lock.
    fn publish(&self, ethernet: &Ethernet) {
        ethernet.interface.set(&self.stack, self.link);
    }
}

/// The machine's sockets, as a stack sees them.
struct Machine<'a> {
    ethernet: &'static Ethernet,
    connections: &'a mut Connections,
}

impl Host for Machine<'_> {
    fn has_room(&self) -> bool {
        self.ethernet.device.has_room()
    }

    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        let sent = self.ethernet.device.transmit(len, fill);
        if sent {
            self.ethernet.interface.count_sent(len);
        }
        sent
    }

    fn random(&mut self) -> u64 {
        random()
    }

    fn datagram(&mut self, packet: &Packet<'_>) -> bool {
        udp::arrived(self.ethernet.interface, packet)
    }

    fn segment(&mut self, stack: &mut Stack, packet: &Packet<'_>, now: Instant) {
        self.take_segment(stack, packet, now);
    }

    fn raw(&mut self, packet: &Packet<'_>) -> bool {
        raw::arrived(self.ethernet.interface, packet)
    }

    fn error(&mut self, stack: &mut Stack, error: &icmp::Error, now: Instant) {
        match error.protocol {
            klib::net::packet::TCP => self.connection_error(stack, error, now),
            protocol => udp::failed(self.ethernet.interface, u32::from(protocol), error),
        }
    }

    fn is_member(&mut self, group: IpAddr) -> bool {
        multicast::is_taken(group.into(), self.ethernet.interface.index)
    }
}
