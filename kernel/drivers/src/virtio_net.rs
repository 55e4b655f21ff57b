//! virtio network device: Ethernet frames to and from the host.
//!
//! Two queues of fixed buffers in DMA memory: all receive buffers are with the device until a frame is in one, and as
//! many frames as there are transmit buffers can be on their way. A transmit buffer comes back when the next frame is
//! queued, so that sending takes no interrupts; only who found no room asks for one. The queues are driven directly: the
//! crate's own driver of the device allocates for each frame and cannot leave notifications to the end of a batch.
//!
//! Interrupts are acknowledged through registers of their own, so the handler waits for no lock.
//!
//! Reference: Virtual I/O Device (VIRTIO) Version 1.2, 5.1.

use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use bitflags::bitflags;
use hal::{
    DeviceNode, ETHERNET_HEADER, IrqHandler, MAC_LEN, Net, NetCounts, NetEvents, PAGE_SIZE, Platform, PlatformError,
    ProbeError,
};
use spin::{Mutex, Once};
use virtio_drivers::{
    BufferDirection, Hal,
    queue::VirtQueue,
    transport::{InterruptStatus, Transport},
};

use crate::virtio_hal::VirtioHal;

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;
/// Buffers of each queue.
const BUFFERS: usize = 128;
/// Bytes of a buffer: the longest header and the longest frame.
const BUFFER: usize = 2048;
/// Bytes of `virtio_net_hdr`, and of that of a legacy device, which lacks `num_buffers` (5.1.6).
const HEADER: usize = 12;
const LEGACY_HEADER: usize = 10;
/// The most bytes of a frame's contents, unless the device has less.
const MTU: usize = 1500;
/// Refilled buffers that the device is told of at once.
const REFILL: usize = 16;
/// Offsets in the configuration space (5.1.4).
const STATUS_AT: usize = 6;
const MTU_AT: usize = 10;
/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;

bitflags! {
    /// Feature bits (5.1.3, 6).
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {
        const MTU = 1 << 3;
        const MAC = 1 << 5;
        const STATUS = 1 << 16;
        const VERSION_1 = 1 << 32;
    }
}

type Queue = VirtQueue<VirtioHal, BUFFERS>;

/// Makes a queue. It is large, so it has a frame of its own on the stack while it is made.
#[inline(never)]
fn make_queue(transport: &mut impl Transport, number: u16) -> Result<Box<Queue>, ProbeError> {
    match Queue::new(transport, number, false, false) {
        Ok(queue) => Ok(Box::new(queue)),
        Err(virtio_drivers::Error::DmaError) => Err(PlatformError::NoMemory.into()),
        Err(_) => Err(ProbeError::Device("usable virtio queues")),
    }
}

/// The buffers of a queue.
struct Buffers {
    memory: &'static mut [u8],
    /// Which buffer is in the device's hands under a token.
    in_flight: Vec<Option<u16>>,
}

impl Buffers {
    fn new() -> Result<Self, ProbeError> {
        const PAGES: usize = BUFFERS * BUFFER / PAGE_SIZE;
        let (phys, memory) = VirtioHal::dma_alloc(PAGES, BufferDirection::Both);
        if phys == 0 {
            return Err(PlatformError::NoMemory.into());
        }
        // SAFETY: Pages of this driver's alone, zeroed and never given back.
        let memory = unsafe { core::slice::from_raw_parts_mut(memory.as_ptr(), PAGES * PAGE_SIZE) };
        Ok(Self { memory, in_flight: vec![None; BUFFERS] })
    }

    fn get(&mut self, buffer: u16) -> &mut [u8] {
        let start = usize::from(buffer) * BUFFER;
        &mut self.memory[start..start + BUFFER]
    }

    /// The buffer that came back under a token. `None` for a token of nothing, which a device must not give.
    fn returned(&mut self, token: u16) -> Option<u16> {
        self.in_flight.get_mut(usize::from(token))?.take()
    }
}

struct Receiver {
    queue: Box<Queue>,
    buffers: Buffers,
    /// Given to the device since it was told.
    refilled: usize,
}

impl Receiver {
    /// Gives a buffer to the device.
    fn give(&mut self, buffer: u16) -> bool {
        // SAFETY: The buffer lives for good and is not touched until it is popped.
        match unsafe { self.queue.add(&[], &mut [self.buffers.get(buffer)]) } {
            Ok(token) => {
                if let Some(place) = self.buffers.in_flight.get_mut(usize::from(token)) {
                    *place = Some(buffer);
                }
                self.refilled += 1;
                true
            }
            Err(_) => false,
        }
    }
}

struct Transmitter {
    queue: Box<Queue>,
    buffers: Buffers,
    free: Vec<u16>,
    /// Bytes of the frame in each buffer, with the header: what was given must be given again to take it back.
    len: Vec<usize>,
    /// Frames queued since the device was told.
    queued: bool,
}

impl Transmitter {
    /// Takes back the buffers of frames that were sent.
    fn reclaim(&mut self) {
        while let Some(token) = self.queue.peek_used() {
            let Some(buffer) = self.buffers.returned(token) else { return };
            let len = self.len[usize::from(buffer)];
            // SAFETY: The same part of the same buffer as in `transmit`.
            if unsafe { self.queue.pop_used(token, &[&self.buffers.get(buffer)[..len]], &mut []) }.is_err() {
                return;
            }
            self.free.push(buffer);
        }
    }
}

/// The device.
pub struct VirtioNet<T> {
    receiver: Mutex<Receiver>,
    transmitter: Mutex<Transmitter>,
    transport: Mutex<T>,
    /// For the interrupt handler alone.
    interrupt: Mutex<T>,
    events: Once<Arc<dyn NetEvents>>,
    mac: [u8; MAC_LEN],
    mtu: usize,
    header: usize,
    has_status: bool,
    link_is_up: AtomicBool,
    /// The device said that its configuration is another, so the link may be too.
    link_changed: AtomicBool,
    receive_errors: AtomicU64,
    transmit_errors: AtomicU64,
}

impl<T: Transport> VirtioNet<T> {
    /// `interrupt` is a second view of the same device.
    fn new(mut transport: T, interrupt: T) -> Result<Self, ProbeError> {
        let offered = transport.read_device_features();
        let mut wanted = Features::MAC | Features::STATUS | Features::VERSION_1;
        let mut mtu = MTU;
        if offered & Features::MTU.bits() != 0
            && let Ok(told) = transport.read_config_space::<u16>(MTU_AT)
            && usize::from(told) <= MTU
        {
            wanted |= Features::MTU;
            mtu = usize::from(told).max(1280);
        }
        let features = transport.begin_init(wanted);
        if !features.contains(Features::MAC) {
            return Err(ProbeError::Device("a network device with an address"));
        }
        let mac = transport.read_consistent(|| transport.read_config_space::<[u8; MAC_LEN]>(0));
        let mac = mac.map_err(|_| ProbeError::Device("a network device's configuration"))?;
        if mac[0] & 1 != 0 || mac == [0; MAC_LEN] {
            return Err(ProbeError::Device("an address of one station"));
        }
        let receive_queue = make_queue(&mut transport, RECEIVE_QUEUE)?;
        let mut transmit_queue = make_queue(&mut transport, TRANSMIT_QUEUE)?;
        transmit_queue.set_dev_notify(false);
        let mut receiver = Receiver { queue: receive_queue, buffers: Buffers::new()?, refilled: 0 };
        for buffer in 0..BUFFERS as u16 {
            receiver.give(buffer);
        }
        let transmitter = Transmitter {
            queue: transmit_queue,
            buffers: Buffers::new()?,
            free: (0..BUFFERS as u16).collect(),
            len: vec![0; BUFFERS],
            queued: false,
        };
        transport.finish_init();
        receiver.refilled = 0;
        transport.notify(RECEIVE_QUEUE);
        let header = if features.contains(Features::VERSION_1) { HEADER } else { LEGACY_HEADER };
        Ok(Self {
            receiver: Mutex::new(receiver),
            transmitter: Mutex::new(transmitter),
            transport: Mutex::new(transport),
            interrupt: Mutex::new(interrupt),
            events: Once::new(),
            mac,
            mtu,
            header,
            has_status: features.contains(Features::STATUS),
            link_is_up: AtomicBool::new(true),
            link_changed: AtomicBool::new(true),
            receive_errors: AtomicU64::new(0),
            transmit_errors: AtomicU64::new(0),
        })
    }

    /// Tells the device of refilled buffers where it waits for them.
    fn announce(&self, receiver: &mut Receiver) {
        if receiver.refilled > 0 {
            receiver.refilled = 0;
            // What the device is told of is written before its wish is read (2.7.13.4.1).
            fence(Ordering::SeqCst);
            if receiver.queue.should_notify() {
                self.transport.lock().notify(RECEIVE_QUEUE);
            }
        }
    }
}

impl<T: Transport + Send> Net for VirtioNet<T> {
    fn mac(&self) -> [u8; MAC_LEN] {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn link_is_up(&self) -> bool {
        if self.has_status && self.link_changed.swap(false, Ordering::Relaxed) {
            let status = self.transport.lock().read_config_space::<u16>(STATUS_AT);
            self.link_is_up.store(status.is_ok_and(|status| status & LINK_UP != 0), Ordering::Relaxed);
        }
        self.link_is_up.load(Ordering::Relaxed)
    }

    fn start(&self, events: Arc<dyn NetEvents>) {
        self.events.call_once(|| events);
        // Frames may have come before anybody heard of the interrupt. One that is signalled by its edge comes only once
        // until it is acknowledged.
        self.handle_irq();
    }

    fn receive(&self, use_frame: &mut dyn FnMut(&[u8])) -> bool {
        let mut receiver = self.receiver.lock();
        let receiver = &mut *receiver;
        let Some(token) = receiver.queue.peek_used() else {
            self.announce(receiver);
            return false;
        };
        let Some(buffer) = receiver.buffers.returned(token) else {
            self.receive_errors.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        // SAFETY: The same buffer as in `give`.
        let len = unsafe { receiver.queue.pop_used(token, &[], &mut [receiver.buffers.get(buffer)]) };
        let len = len.map_or(0, |len| len as usize);
        match receiver.buffers.get(buffer).get(self.header..len) {
            Some(frame) if frame.len() >= ETHERNET_HEADER => use_frame(frame),
            _ => {
                self.receive_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        receiver.give(buffer);
        if receiver.refilled >= REFILL {
            self.announce(receiver);
        }
        true
    }

    fn transmit(&self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if len > ETHERNET_HEADER + self.mtu {
            self.transmit_errors.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let mut transmitter = self.transmitter.lock();
        let transmitter = &mut *transmitter;
        transmitter.reclaim();
        let Some(buffer) = transmitter.free.pop() else { return false };
        let whole = self.header + len;
        // The header stays as it is, all zeroes: nothing for the device to compute.
        let bytes = &mut transmitter.buffers.get(buffer)[..whole];
        fill(&mut bytes[self.header..]);
        transmitter.len[usize::from(buffer)] = whole;
        // SAFETY: The buffer lives for good and is not touched until it is reclaimed.
        match unsafe { transmitter.queue.add(&[transmitter.buffers.get(buffer).get(..whole).unwrap_or(&[])], &mut []) }
        {
            Ok(token) => {
                if let Some(place) = transmitter.buffers.in_flight.get_mut(usize::from(token)) {
                    *place = Some(buffer);
                }
                transmitter.queued = true;
            }
            Err(_) => {
                self.transmit_errors.fetch_add(1, Ordering::Relaxed);
                transmitter.free.push(buffer);
            }
        }
        true
    }

    fn has_room(&self) -> bool {
        let transmitter = self.transmitter.lock();
        !transmitter.free.is_empty() || transmitter.queue.can_pop()
    }

    fn flush(&self) {
        let mut transmitter = self.transmitter.lock();
        if core::mem::take(&mut transmitter.queued) {
            fence(Ordering::SeqCst);
            if transmitter.queue.should_notify() {
                self.transport.lock().notify(TRANSMIT_QUEUE);
            }
        }
    }

    fn set_receive_interrupt(&self, on: bool) -> bool {
        let mut receiver = self.receiver.lock();
        receiver.queue.set_dev_notify(on);
        if on {
            self.announce(&mut receiver);
            fence(Ordering::SeqCst);
        }
        on && receiver.queue.can_pop()
    }

    fn want_room(&self) -> bool {
        let mut transmitter = self.transmitter.lock();
        transmitter.reclaim();
        let has_room = !transmitter.free.is_empty();
        transmitter.queue.set_dev_notify(!has_room);
        if has_room {
            return true;
        }
        fence(Ordering::SeqCst);
        transmitter.reclaim();
        !transmitter.free.is_empty()
    }

    fn counts(&self) -> NetCounts {
        NetCounts {
            receive_errors: self.receive_errors.load(Ordering::Relaxed),
            transmit_errors: self.transmit_errors.load(Ordering::Relaxed),
        }
    }
}

impl<T: Transport + Send> IrqHandler for VirtioNet<T> {
    fn handle_irq(&self) {
        // Only one CPU handles an interrupt at a time, so this lock is free.
        let cause = self.interrupt.lock().ack_interrupt();
        if cause.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT) {
            self.link_changed.store(true, Ordering::Relaxed);
        }
        if let Some(events) = self.events.get() {
            events.interrupt();
        }
    }
}

/// Brings the device up. The transport has found it to be a network device; `interrupt` is a second view of it.
pub(crate) fn probe<T: Transport + Send + 'static>(
    transport: T,
    interrupt: T,
    node: &dyn DeviceNode,
    platform: &'static dyn Platform,
) -> Result<(), ProbeError> {
    let net = Arc::new(VirtioNet::new(transport, interrupt)?);
    platform.request_irq(node, 0, net.clone())?;
    platform.add_net(node, net);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use virtio_drivers::transport::{DeviceStatus, DeviceType};
    use zerocopy::{FromBytes, Immutable, IntoBytes};

    use super::*;
    use crate::{
        fake::{DeviceView, FakeNode, FakePlatform},
        virtio_hal,
    };

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    /// A network device: its configuration, and where each queue's descriptors and rings are.
    struct Device {
        features: u64,
        legacy: bool,
        config: [u8; 12],
        max_queue: u32,
        queues: [(u64, u64, u64); 2],
        notified: Vec<u16>,
        causes: u32,
        /// Frames taken and given so far.
        seen: [u16; 2],
    }

    impl Device {
        /// The next buffer that the driver gave: its descriptor's number, address and length.
        fn next(&mut self, queue: u16) -> Option<(u16, u64, u32)> {
            let (descriptors, available, _) = self.queues[usize::from(queue)];
            let seen = self.seen[usize::from(queue)];
            if seen == u16::from_le_bytes(DeviceView::read(available + 2)) {
                return None;
            }
            let place = u64::from(seen % BUFFERS as u16);
            let id = u16::from_le_bytes(DeviceView::read(available + 4 + 2 * place));
            let descriptor = descriptors + 16 * u64::from(id);
            let target = u64::from_le_bytes(DeviceView::read(descriptor));
            Some((id, target, u32::from_le_bytes(DeviceView::read(descriptor + 8))))
        }

        /// Gives a buffer back.
        fn done(&mut self, queue: u16, id: u16, len: u32) {
            let used = self.queues[usize::from(queue)].2;
            let seen = &mut self.seen[usize::from(queue)];
            let place = u64::from(*seen % BUFFERS as u16);
            DeviceView::write(used + 4 + 8 * place, &u32::from(id).to_le_bytes());
            DeviceView::write(used + 8 + 8 * place, &len.to_le_bytes());
            *seen = seen.wrapping_add(1);
            DeviceView::write(used + 2, &seen.to_le_bytes());
        }

        /// Takes all frames that the driver sent, with their headers.
        fn sent(&mut self) -> Vec<Vec<u8>> {
            let mut frames = Vec::new();
            while let Some((id, target, len)) = self.next(TRANSMIT_QUEUE) {
                frames.push((0..u64::from(len)).map(|at| DeviceView::read::<1>(target + at)[0]).collect());
                self.done(TRANSMIT_QUEUE, id, 0);
            }
            frames
        }

        /// Puts bytes into the next receive buffer, behind nothing; `false` when the driver gave none.
        fn receive(&mut self, bytes: &[u8]) -> bool {
            let Some((id, target, _)) = self.next(RECEIVE_QUEUE) else { return false };
            DeviceView::write(target, bytes);
            self.done(RECEIVE_QUEUE, id, bytes.len() as u32);
            true
        }
    }

    #[derive(Clone)]
    struct FakeTransport(Arc<StdMutex<Device>>);

    impl Transport for FakeTransport {
        fn device_type(&self) -> DeviceType {
            DeviceType::Network
        }
        fn read_device_features(&mut self) -> u64 {
            self.0.lock().unwrap().features
        }
        fn write_driver_features(&mut self, _features: u64) {}
        fn max_queue_size(&mut self, _queue: u16) -> u32 {
            self.0.lock().unwrap().max_queue
        }
        fn notify(&mut self, queue: u16) {
            self.0.lock().unwrap().notified.push(queue);
        }
        fn get_status(&self) -> DeviceStatus {
            DeviceStatus::empty()
        }
        fn set_status(&mut self, _status: DeviceStatus) {}
        fn set_guest_page_size(&mut self, _size: u32) {}
        fn requires_legacy_layout(&self) -> bool {
            self.0.lock().unwrap().legacy
        }
        fn queue_set(&mut self, queue: u16, _size: u32, descriptors: u64, driver_area: u64, device_area: u64) {
            self.0.lock().unwrap().queues[usize::from(queue)] = (descriptors, driver_area, device_area);
        }
        fn queue_unset(&mut self, _queue: u16) {}
        fn queue_used(&mut self, queue: u16) -> bool {
            self.0.lock().unwrap().queues[usize::from(queue)].0 != 0
        }
        fn ack_interrupt(&mut self) -> InterruptStatus {
            InterruptStatus::from_bits_truncate(core::mem::take(&mut self.0.lock().unwrap().causes))
        }
        fn read_config_generation(&self) -> u32 {
            0
        }
        fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<V> {
            let config = self.0.lock().unwrap().config;
            let bytes = &config[offset..offset + size_of::<V>()];
            Ok(V::read_from_bytes(bytes).ok().unwrap())
        }
        fn write_config_space<V: IntoBytes + Immutable>(
            &mut self,
            _offset: usize,
            _value: V,
        ) -> virtio_drivers::Result<()> {
            Ok(())
        }
    }

    /// A device and its driver.
    fn start(change: impl FnOnce(&mut Device)) -> Result<(FakeTransport, VirtioNet<FakeTransport>), ProbeError> {
        virtio_hal::attach(FakePlatform::new(), true);
        let [a, b, c, d, e, f] = MAC;
        let mut device = Device {
            features: (Features::MAC | Features::STATUS | Features::VERSION_1).bits(),
            legacy: false,
            config: [a, b, c, d, e, f, 1, 0, 0, 0, 0, 0],
            max_queue: 256,
            queues: [(0, 0, 0); 2],
            notified: Vec::new(),
            causes: 0,
            seen: [0; 2],
        };
        change(&mut device);
        let transport = FakeTransport(Arc::new(StdMutex::new(device)));
        let net = VirtioNet::new(transport.clone(), transport.clone())?;
        Ok((transport, net))
    }

    #[test]
    fn frames_go_out_behind_an_empty_header_and_buffers_come_back() {
        for (legacy, header) in [(false, HEADER), (true, LEGACY_HEADER)] {
            let (device, net) = start(|device| {
                device.legacy = legacy;
                if legacy {
                    device.features &= !Features::VERSION_1.bits();
                }
            })
            .unwrap();
            assert_eq!((net.mac(), net.mtu(), net.link_is_up()), (MAC, MTU, true));
            for round in 0..3 * BUFFERS {
                let number = round as u8;
                assert!(net.transmit(60, &mut |frame| frame.fill(number)));
                net.flush();
                let mut device = device.0.lock().unwrap();
                assert_eq!(device.notified.pop(), Some(TRANSMIT_QUEUE));
                let frames = device.sent();
                assert_eq!(frames.len(), 1);
                assert_eq!((&frames[0][..header], &frames[0][header..]), (&[0; HEADER][..header], &[number; 60][..]));
            }
        }
    }

    #[test]
    fn no_more_frames_are_taken_than_there_are_buffers() {
        let (device, net) = start(|_| {}).unwrap();
        assert!(!net.transmit(ETHERNET_HEADER + MTU + 1, &mut |_| unreachable!("too long")));
        for _ in 0..BUFFERS {
            assert!(net.has_room() && net.transmit(14, &mut |frame| frame.fill(1)));
        }
        assert!(!net.has_room() && !net.transmit(14, &mut |_| unreachable!("no buffer is free")));
        assert!(!net.want_room());
        assert_eq!(device.0.lock().unwrap().sent().len(), BUFFERS);
        assert!(net.want_room() && net.transmit(14, &mut |frame| frame.fill(1)));
        assert_eq!(net.counts(), NetCounts { receive_errors: 0, transmit_errors: 1 });
    }

    #[test]
    fn frames_come_in_order_and_what_is_too_short_is_an_error() {
        let (device, net) = start(|_| {}).unwrap();
        for round in 0..4 * BUFFERS {
            let frame = [&[0; HEADER][..], &[round as u8; 20]].concat();
            assert!(device.0.lock().unwrap().receive(&frame), "a buffer is given back for each frame");
            let mut came = Vec::new();
            assert!(net.receive(&mut |frame| came.push(frame.to_vec())));
            assert_eq!(came, [vec![round as u8; 20]]);
        }
        assert!(!net.receive(&mut |_| unreachable!("nothing came")));
        device.0.lock().unwrap().receive(&[0; HEADER + 13]);
        assert!(net.receive(&mut |_| unreachable!("shorter than a header")));
        assert_eq!(net.counts().receive_errors, 1);
        assert!(!net.set_receive_interrupt(true));
        device.0.lock().unwrap().receive(&[0; HEADER + 14]);
        assert!(net.set_receive_interrupt(true), "one came while the interrupt was off");
    }

    #[test]
    fn interrupt_is_acknowledged_and_told_and_may_come_while_the_device_is_used() {
        struct Count(StdMutex<u32>);
        impl NetEvents for Count {
            fn interrupt(&self) {
                *self.0.lock().unwrap() += 1;
            }
        }
        let (device, net) = start(|_| {}).unwrap();
        let count = Arc::new(Count(StdMutex::new(0)));
        device.0.lock().unwrap().causes = 1;
        net.start(count.clone());
        assert_eq!(device.0.lock().unwrap().causes, 0, "one from before is acknowledged");
        assert_eq!(core::mem::take(&mut *count.0.lock().unwrap()), 1);
        assert!(net.link_is_up());
        {
            let mut device = device.0.lock().unwrap();
            device.config[STATUS_AT] = 0;
            device.causes = 3;
        }
        assert!(net.link_is_up(), "nobody said so yet");
        assert!(net.transmit(20, &mut |_| net.handle_irq()), "the handler waits for nobody");
        assert_eq!((*count.0.lock().unwrap(), net.link_is_up()), (1, false));
    }

    #[test]
    fn device_that_cannot_be_used_is_refused() {
        assert!(matches!(start(|device| device.config[0] = 1), Err(ProbeError::Device(_))), "a group's address");
        assert!(matches!(start(|device| device.features = 1 << 32), Err(ProbeError::Device(_))), "no address");
        assert!(matches!(start(|device| device.max_queue = 16), Err(ProbeError::Device(_))), "short queues");
    }

    #[test]
    fn slot_with_a_network_device_without_queues_is_a_device_error() {
        let platform = FakePlatform::new();
        let registers = platform.add_registers(0xa00_0000, 0x200);
        for (offset, value) in [(0x00, 0x7472_6976), (0x04, 2), (0x08, 1), (0x10, u32::MAX), (0x100, 0x0100_5452)] {
            registers.write(offset, value);
        }
        let node = FakeNode::new("virtio,mmio").with_reg(0xa00_0000, 0x200).with_property("dma-coherent", &[]);
        assert!(matches!((crate::virtio_mmio::DRIVER.probe)(&node, platform), Err(ProbeError::Device(_))));
    }
}
