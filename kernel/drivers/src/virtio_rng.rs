//! virtio entropy device: random bytes from the host.
//!
//! One request is in flight at most and is not waited for beyond a limit: a host that is short of entropy, or limits
//! its rate, must not hang the machine. A request that comes back late is handed out by the next call. For this the
//! queue is driven directly; the crate's own driver of the device waits without end.
//!
//! Reference: Virtual I/O Device (VIRTIO) Version 1.2, 5.4.

use alloc::sync::Arc;
use core::hint::spin_loop;

use hal::{DeviceNode, PAGE_SIZE, Platform, ProbeError, Rng};
use spin::Mutex;
use virtio_drivers::{
    BufferDirection, Hal,
    device::common::Feature,
    queue::VirtQueue,
    transport::{Transport, mmio::MmioTransport},
};

use crate::virtio_hal::VirtioHal;

const QUEUE: u16 = 0;
/// Queue entries; one is used.
const QUEUE_SIZE: usize = 2;
/// Bytes asked for at a time.
const REQUEST: usize = 256;
/// How long a request is waited for, in nanoseconds.
const TIMEOUT_NS: u64 = 50_000_000;
/// The same where there is no clock yet, in polls.
const MAX_POLLS: u32 = 20_000_000;

struct State {
    transport: MmioTransport<'static>,
    queue: VirtQueue<VirtioHal, QUEUE_SIZE>,
    /// The token of the request in flight.
    token: Option<u16>,
    /// A page of DMA memory, of which the first [`REQUEST`] bytes are in the device's hands while `token` is set.
    buffer: &'static mut [u8],
}

/// The entropy source.
pub struct VirtioRng {
    state: Mutex<State>,
    platform: &'static dyn Platform,
}

impl VirtioRng {
    fn new(mut transport: MmioTransport<'static>, platform: &'static dyn Platform) -> Result<Self, ProbeError> {
        let out_of_memory = ProbeError::Platform(hal::PlatformError::NoMemory);
        transport.begin_init(Feature::VERSION_1);
        let queue = VirtQueue::new(&mut transport, QUEUE, false, false).map_err(|error| match error {
            virtio_drivers::Error::DmaError => out_of_memory,
            _ => ProbeError::Device("a usable virtio request queue"),
        })?;
        transport.finish_init();
        let (phys, memory) = VirtioHal::dma_alloc(1, BufferDirection::DeviceToDriver);
        if phys == 0 {
            return Err(out_of_memory);
        }
        // SAFETY: A page of this driver's alone, zeroed and never given back.
        let buffer = unsafe { core::slice::from_raw_parts_mut(memory.as_ptr(), PAGE_SIZE) };
        let state = State { transport, queue, token: None, buffer };
        Ok(Self { state: Mutex::new(state), platform })
    }
}

impl State {
    /// Puts a request into the queue unless there is one.
    fn request(&mut self) -> Option<()> {
        if self.token.is_none() {
            // SAFETY: The buffer lives for good and is not touched until the request is popped.
            let token = unsafe { self.queue.add(&[], &mut [&mut self.buffer[..REQUEST]]) };
            self.token = Some(token.ok()?);
            if self.queue.should_notify() {
                self.transport.notify(QUEUE);
            }
        }
        Some(())
    }

    /// Takes the finished request out of the queue; the device's bytes are at the front of the buffer.
    fn finish(&mut self) -> Option<usize> {
        let token = self.token?;
        // SAFETY: The same buffer as in `request`.
        let len = unsafe { self.queue.pop_used(token, &[], &mut [&mut self.buffer[..REQUEST]]) }.ok()?;
        self.token = None;
        Some((len as usize).min(REQUEST))
    }
}

impl Rng for VirtioRng {
    fn fill(&self, out: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        let start_ns = self.platform.now_ns();
        let mut filled = 0;
        while filled < out.len() {
            if state.request().is_none() {
                break;
            }
            let mut polls = 0;
            while !state.queue.can_pop() {
                polls += 1;
                if polls > MAX_POLLS || self.platform.now_ns().saturating_sub(start_ns) > TIMEOUT_NS {
                    return filled;
                }
                spin_loop();
            }
            let Some(len) = state.finish().filter(|&len| len > 0) else {
                break;
            };
            let take = len.min(out.len() - filled);
            out[filled..filled + take].copy_from_slice(&state.buffer[..take]);
            // No byte is ever handed out twice.
            state.buffer[..REQUEST].fill(0);
            filled += take;
        }
        // The interrupt line is not used, but is put down again for whoever looks at it.
        state.transport.ack_interrupt();
        filled
    }
}

/// Brings the device up. The transport has found it to be an entropy source.
pub(crate) fn probe(
    transport: MmioTransport<'static>,
    node: &dyn DeviceNode,
    platform: &'static dyn Platform,
) -> Result<(), ProbeError> {
    let rng = Arc::new(VirtioRng::new(transport, platform)?);
    platform.add_rng(node, rng);
    Ok(())
}

#[cfg(test)]
mod tests {
    use core::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };
    use std::thread;

    use super::*;
    use crate::{
        fake::{DeviceView, FakeNode, FakePlatform, FakeRegisters},
        virtio_mmio::DRIVER,
    };

    const BASE: u64 = 0xa00_0000;
    const QUEUE_NOTIFY: usize = 0x50;

    fn node() -> FakeNode {
        FakeNode::new("virtio,mmio").with_reg(BASE, 0x200).with_property("dma-coherent", &[])
    }

    /// A modern slot with this kind of device.
    fn slot(platform: &FakePlatform, device_id: u32) -> FakeRegisters {
        let registers = platform.add_registers(BASE, 0x200);
        for (offset, value) in [(0x00, 0x7472_6976), (0x04, 2), (0x08, device_id), (0x34, 256), (QUEUE_NOTIFY, 77)] {
            registers.write(offset, value);
        }
        registers
    }

    /// Plays the device: answers each request with a counter's bytes while `awake`.
    fn serve(registers: FakeRegisters, awake: &'static AtomicBool) {
        thread::spawn(move || {
            let address = |offset| u64::from(registers.read(offset)) | u64::from(registers.read(offset + 4)) << 32;
            let (mut seen, mut counter) = (0_u16, 0_u8);
            loop {
                thread::sleep(Duration::from_micros(50));
                if registers.read(QUEUE_NOTIFY) != 0 || !awake.load(Ordering::SeqCst) {
                    continue;
                }
                let (descriptors, available, used) = (address(0x80), address(0x90), address(0xa0));
                let queued = u16::from_le_bytes(DeviceView::read(available + 2));
                while seen != queued {
                    let place = u64::from(seen % registers.read(0x38) as u16);
                    let id = u16::from_le_bytes(DeviceView::read(available + 4 + 2 * place));
                    let descriptor = descriptors + 16 * u64::from(id);
                    let target = u64::from_le_bytes(DeviceView::read(descriptor));
                    let len = u32::from_le_bytes(DeviceView::read(descriptor + 8));
                    counter += 1;
                    DeviceView::write(target, &vec![counter; len as usize]);
                    DeviceView::write(used + 4 + 8 * place, &u32::from(id).to_le_bytes());
                    DeviceView::write(used + 8 + 8 * place, &len.to_le_bytes());
                    seen = seen.wrapping_add(1);
                    DeviceView::write(used + 2, &seen.to_le_bytes());
                }
            }
        });
    }

    #[test]
    fn fill_gives_fresh_bytes_each_time_and_late_ones_to_the_next_call() {
        static AWAKE: AtomicBool = AtomicBool::new(true);
        let platform = FakePlatform::new();
        serve(slot(platform, 4), &AWAKE);
        (DRIVER.probe)(&node(), platform).unwrap();
        let rng = platform.rng.lock().unwrap().clone().unwrap();

        let mut bytes = [0; 300];
        assert_eq!(rng.fill(&mut bytes), 300);
        assert_eq!(bytes[..256], [1; 256]);
        assert_eq!(bytes[256..], [2; 44]);
        assert_eq!(rng.fill(&mut bytes[..4]), 4);
        assert_eq!(bytes[..4], [3; 4], "the rest of an answer is not kept");

        AWAKE.store(false, Ordering::SeqCst);
        platform.tick_ns.store(TIMEOUT_NS / 100, Ordering::SeqCst);
        assert_eq!(rng.fill(&mut bytes), 0, "a silent device does not hang the caller");
        platform.tick_ns.store(0, Ordering::SeqCst);
        AWAKE.store(true, Ordering::SeqCst);
        assert_eq!(rng.fill(&mut bytes[..4]), 4);
        assert_eq!(bytes[..4], [4; 4]);
    }

    #[test]
    fn empty_slots_and_other_devices_do_not_match() {
        for device_id in [0, 2, 3, 0xffff] {
            let platform = FakePlatform::new();
            slot(platform, device_id);
            assert_eq!((DRIVER.probe)(&node(), platform), Err(ProbeError::NoMatch), "device {device_id}");
        }
    }

    #[test]
    fn probe_of_what_is_no_slot_says_what_is_wrong() {
        let platform = FakePlatform::new();
        let registers = slot(platform, 4);
        assert_eq!((DRIVER.probe)(&FakeNode::new("virtio,mmio"), platform), Err(ProbeError::BadNode("reg")));
        let short = FakeNode::new("virtio,mmio").with_reg(BASE, 0x40);
        assert!(matches!((DRIVER.probe)(&short, platform), Err(ProbeError::BadNode(_))));
        registers.write(0x04, 3);
        assert!(matches!((DRIVER.probe)(&node(), platform), Err(ProbeError::Device(_))));
        registers.write(0x00, 0);
        assert!(matches!((DRIVER.probe)(&node(), platform), Err(ProbeError::Device(_))));
    }

    #[test]
    fn queue_that_the_device_lacks_is_a_device_error() {
        let platform = FakePlatform::new();
        slot(platform, 4).write(0x34, 0);
        assert!(matches!((DRIVER.probe)(&node(), platform), Err(ProbeError::Device(_))));
    }
}
