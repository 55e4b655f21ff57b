//! A kernel, a device-tree node and a device's registers for tests: all of them plain memory on the host.
//!
//! Memory is leaked: what the real kernel maps stays for good too.

use alloc::{boxed::Box, string::String, sync::Arc, vec, vec::Vec};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
use std::{collections::BTreeMap, sync::Mutex};

use hal::{
    ConfigStore, DeviceNode, DmaMemory, IrqChip, IrqHandler, IrqSpecifier, Mmio, Net, PAGE_SIZE, PhysAddr, PhysRange,
    Platform, PlatformError, ProbeError, Rng, Rtc, Timer, Uart,
};

/// A register block made of memory: reads give what was last written.
#[derive(Clone, Copy)]
pub struct FakeRegisters {
    words: &'static [AtomicU64],
}

impl FakeRegisters {
    fn new(len: usize) -> Self {
        let words: Vec<AtomicU64> = (0..len.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        Self { words: Box::leak(words.into_boxed_slice()) }
    }

    fn len(&self) -> usize {
        self.words.len() * 8
    }

    fn base(&self) -> NonNull<u8> {
        NonNull::from(self.words).cast()
    }

    fn cell<T>(&self, offset: usize) -> &'static T {
        assert!(offset + size_of::<T>() <= self.len() && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: Inside the leaked block and aligned; only atomic types are asked for.
        unsafe { self.base().add(offset).cast::<T>().as_ref() }
    }

    pub fn read(&self, offset: usize) -> u32 {
        self.cell::<AtomicU32>(offset).load(Ordering::SeqCst)
    }

    pub fn write(&self, offset: usize, value: u32) {
        self.cell::<AtomicU32>(offset).store(value, Ordering::SeqCst);
    }

    pub fn read64(&self, offset: usize) -> u64 {
        self.cell::<AtomicU64>(offset).load(Ordering::SeqCst)
    }

    pub fn write64(&self, offset: usize, value: u64) {
        self.cell::<AtomicU64>(offset).store(value, Ordering::SeqCst);
    }
}

/// Memory that a driver gave a fake device the address of. Physical addresses are the host's own.
pub struct DeviceView;

impl DeviceView {
    pub fn read<const N: usize>(address: u64) -> [u8; N] {
        // SAFETY: The tests' drivers give out addresses of live memory from `dma_alloc` only.
        unsafe { (address as *const [u8; N]).read_volatile() }
    }

    pub fn write(address: u64, bytes: &[u8]) {
        // SAFETY: As in `read`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) }
    }
}

/// What drivers handed over, and what they asked for.
#[derive(Default)]
pub struct FakePlatform {
    blocks: Mutex<Vec<(u64, FakeRegisters)>>,
    /// What `request_irq` answers; `Ok` where `None`.
    pub irq_error: Mutex<Option<ProbeError>>,
    pub handlers: Mutex<Vec<Arc<dyn IrqHandler>>>,
    pub irq_chip: Mutex<Option<Arc<dyn IrqChip>>>,
    pub uart: Mutex<Option<Arc<dyn Uart>>>,
    pub uart_interrupts: AtomicUsize,
    pub rtc: Mutex<Option<Arc<dyn Rtc>>>,
    pub rng: Mutex<Option<Arc<dyn Rng>>>,
    pub net: Mutex<Option<Arc<dyn Net>>>,
    pub config_store: Mutex<Option<Arc<dyn ConfigStore>>>,
    /// What `now_ns` answers; goes up by this much at each call.
    pub tick_ns: AtomicU64,
    now_ns: AtomicU64,
    pub coherent_allocations: Mutex<Vec<bool>>,
}

impl FakePlatform {
    pub fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    /// Puts registers at a physical address.
    pub fn add_registers(&self, phys: u64, len: usize) -> FakeRegisters {
        let registers = FakeRegisters::new(len);
        self.blocks.lock().unwrap().push((phys, registers));
        registers
    }
}

impl Platform for FakePlatform {
    fn map_mmio(&self, range: PhysRange) -> Result<Mmio, PlatformError> {
        let blocks = self.blocks.lock().unwrap();
        let found = blocks.iter().find_map(|&(phys, registers)| {
            let offset = range.start.get().checked_sub(phys)? as usize;
            (offset + range.len as usize <= registers.len()).then(|| {
                // SAFETY: Inside the block.
                let base = unsafe { registers.base().add(offset) };
                Mmio { base, len: range.len as usize }
            })
        });
        found.ok_or(PlatformError::BadRange)
    }

    fn dma_alloc(&self, pages: usize, coherent: bool) -> Result<DmaMemory, PlatformError> {
        self.coherent_allocations.lock().unwrap().push(coherent);
        let memory = Box::leak(vec![0_u8; (pages + 1) * PAGE_SIZE].into_boxed_slice());
        let address = memory.as_mut_ptr();
        // SAFETY: There is one page more than asked for.
        let aligned = unsafe { address.add(address.align_offset(PAGE_SIZE)) };
        Ok(DmaMemory { virt: NonNull::new(aligned).unwrap(), phys: PhysAddr::new(aligned as u64), pages })
    }

    fn dma_free(&self, _memory: DmaMemory) {}

    fn request_irq(
        &self,
        _node: &dyn DeviceNode,
        _index: usize,
        handler: Arc<dyn IrqHandler>,
    ) -> Result<(), ProbeError> {
        if let Some(error) = *self.irq_error.lock().unwrap() {
            return Err(error);
        }
        self.handlers.lock().unwrap().push(handler);
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        let tick_ns = self.tick_ns.load(Ordering::SeqCst);
        self.now_ns.fetch_add(tick_ns, Ordering::SeqCst)
    }

    fn add_irq_chip(&self, _node: &dyn DeviceNode, chip: Arc<dyn IrqChip>) {
        *self.irq_chip.lock().unwrap() = Some(chip);
    }

    fn add_uart(&self, _node: &dyn DeviceNode, uart: Arc<dyn Uart>) {
        *self.uart.lock().unwrap() = Some(uart);
    }

    fn uart_interrupt(&self, _uart: &dyn Uart) {
        self.uart_interrupts.fetch_add(1, Ordering::SeqCst);
    }

    fn add_timer(&self, _node: &dyn DeviceNode, _timer: Arc<dyn Timer>) {
        unreachable!("no driver here is a timer");
    }

    fn timer_interrupt(&self) {
        unreachable!("no driver here is a timer");
    }

    fn add_rtc(&self, _node: &dyn DeviceNode, rtc: Arc<dyn Rtc>) {
        *self.rtc.lock().unwrap() = Some(rtc);
    }

    fn remove_rtc(&self, _node: &dyn DeviceNode) {
        *self.rtc.lock().unwrap() = None;
    }

    fn add_rng(&self, _node: &dyn DeviceNode, rng: Arc<dyn Rng>) {
        *self.rng.lock().unwrap() = Some(rng);
    }

    fn add_net(&self, _node: &dyn DeviceNode, net: Arc<dyn Net>) {
        *self.net.lock().unwrap() = Some(net);
    }

    fn add_config_store(&self, _node: &dyn DeviceNode, store: Arc<dyn ConfigStore>) {
        *self.config_store.lock().unwrap() = Some(store);
    }

    fn remove_config_store(&self, _node: &dyn DeviceNode) {
        *self.config_store.lock().unwrap() = None;
    }
}

/// A node with what a test gives it.
#[derive(Default)]
pub struct FakeNode {
    compatible: &'static str,
    reg: Vec<PhysRange>,
    interrupts: Vec<IrqSpecifier>,
    properties: BTreeMap<String, Vec<u8>>,
}

impl FakeNode {
    pub fn new(compatible: &'static str) -> Self {
        Self { compatible, ..Self::default() }
    }

    pub fn with_reg(mut self, start: u64, len: u64) -> Self {
        self.reg.push(PhysRange { start: PhysAddr::new(start), len });
        self
    }

    pub fn with_interrupt(mut self, cells: &[u32]) -> Self {
        self.interrupts.push(IrqSpecifier::new(1, cells).unwrap());
        self
    }

    pub fn with_property(mut self, name: &str, value: &[u8]) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }
}

impl DeviceNode for FakeNode {
    fn path(&self) -> &str {
        "/fake"
    }

    fn phandle(&self) -> u32 {
        0
    }

    fn is_compatible(&self, compatible: &str) -> bool {
        self.compatible == compatible
    }

    fn reg(&self, index: usize) -> Option<PhysRange> {
        self.reg.get(index).copied()
    }

    fn interrupt(&self, index: usize) -> Option<IrqSpecifier> {
        self.interrupts.get(index).copied()
    }

    fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.get(name).map(Vec::as_slice)
    }
}
