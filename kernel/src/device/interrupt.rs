//! Interrupts that programs have: counted, masked from when they fire until the program says that they are handled.
//!
//! As Linux's UIO does it: a descriptor reads as the number of interrupts so far, 32 bits, once there is another than
//! at the last read; 1 written to it unmasks the interrupt, 0 masks it. What fires while it is masked stays pending in the
//! interrupt controller, so nothing is lost.

use alloc::{collections::BTreeMap, string::String, sync::Arc};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use hal::{Irq, IrqHandler, IrqSpecifier, PlatformError, ProbeError};

use crate::{
    fs::{FileOps, Metadata, OpenFile, PollEvents, PollTable, ReadBuffer, WriteBuffer, anonymous_metadata},
    irq,
    sync::IrqLock,
    task::wait::{WaitQueue, wait_until},
};

/// The lines that programs have had, by number: connected once, and used again by who has them next.
static LINES: IrqLock<BTreeMap<u32, Arc<Line>>> = IrqLock::new(BTreeMap::new());

/// An interrupt line.
struct Line {
    irq: Irq,
    owner: IrqLock<Option<Arc<Interrupt>>>,
}

impl IrqHandler for Line {
    fn handle_irq(&self) {
        irq::mask(self.irq);
        let owner = self.owner.lock();
        if let Some(interrupt) = &*owner {
            interrupt.count.fetch_add(1, Ordering::Relaxed);
            interrupt.changed.wake_all();
        }
    }
}

/// A line in the hands of a program.
pub(super) struct Interrupt {
    line: Arc<Line>,
    count: AtomicU32,
    changed: Arc<WaitQueue>,
}

impl Interrupt {
    /// Takes a line, which is masked until the program unmasks it. EBUSY where somebody has it, ENODEV where its
    /// controller has no driver, ENOTSUP where each CPU has its own.
    pub fn take(name: &str, specifier: &IrqSpecifier) -> Result<Arc<Self>> {
        let irq = irq::translate(specifier).map_err(|_| Errno::ENODEV)?;
        if irq.per_cpu {
            return Err(Errno::EOPNOTSUPP);
        }
        let known = LINES.lock().get(&irq.number).cloned();
        let line = match known {
            Some(line) => line,
            None => {
                let line = Arc::new(Line { irq, owner: IrqLock::new(None) });
                irq::request(name, specifier, line.clone()).map_err(|error| match error {
                    ProbeError::Platform(PlatformError::Busy) => Errno::EBUSY,
                    _ => Errno::ENODEV,
                })?;
                LINES.lock().insert(irq.number, line.clone());
                line
            }
        };
        let changed = Arc::new(WaitQueue::new());
        let interrupt = Arc::new(Self { line: line.clone(), count: AtomicU32::new(0), changed });
        let mut owner = line.owner.lock();
        if owner.is_some() {
            return Err(Errno::EBUSY);
        }
        irq::mask(irq);
        *owner = Some(interrupt.clone());
        Ok(interrupt)
    }

    /// Masks the line and gives it back. Who waits for it hears that it is gone.
    pub fn give_back(&self) {
        let owner = {
            let mut owner = self.line.owner.lock();
            // While nobody can unmask it again.
            irq::mask(self.line.irq);
            owner.take()
        };
        self.changed.wake_all();
        drop(owner);
    }

    /// Runs `with` while the line is this one's. ENODEV afterwards.
    fn while_owned<T>(&self, with: impl FnOnce() -> T) -> Result<T> {
        let owner = self.line.owner.lock();
        match &*owner {
            Some(owner) if core::ptr::eq(Arc::as_ptr(owner), self) => Ok(with()),
            _ => Err(Errno::ENODEV),
        }
    }
}

/// A descriptor of an interrupt.
pub(super) struct InterruptFile {
    interrupt: Arc<Interrupt>,
    /// The count at the last read.
    seen: AtomicU32,
}

impl InterruptFile {
    pub fn new(interrupt: Arc<Interrupt>) -> Self {
        let seen = AtomicU32::new(interrupt.count.load(Ordering::Relaxed));
        Self { interrupt, seen }
    }

    /// The count, if it is another than at the last read. ENODEV when the device is not the program's any more.
    fn news(&self) -> Option<Result<u32>> {
        let count = self.interrupt.while_owned(|| self.interrupt.count.load(Ordering::Relaxed));
        match count {
            Ok(count) => (self.seen.swap(count, Ordering::Relaxed) != count).then_some(Ok(count)),
            Err(error) => Some(Err(error)),
        }
    }
}

impl FileOps for InterruptFile {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() != size_of::<u32>() {
            return Err(Errno::EINVAL);
        }
        let count = match self.news() {
            Some(count) => count?,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_until(&[&self.interrupt.changed], None, || self.news())??,
        };
        buffer.put(&count.to_ne_bytes())
    }

    fn write(&self, _file: &OpenFile, _position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let mut bytes = [0; size_of::<u32>()];
        if buffer.remaining() != bytes.len() || buffer.take(&mut bytes)? != bytes.len() {
            return Err(Errno::EINVAL);
        }
        let irq = self.interrupt.line.irq;
        self.interrupt.while_owned(|| match u32::from_ne_bytes(bytes) {
            0 => irq::mask(irq),
            _ => irq::unmask(irq),
        })?;
        Ok(bytes.len())
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.interrupt.changed);
        match self.interrupt.while_owned(|| self.interrupt.count.load(Ordering::Relaxed)) {
            Ok(count) => PollEvents::IN.when(count != self.seen.load(Ordering::Relaxed)) | PollEvents::OUT,
            Err(_) => PollEvents::ERR | PollEvents::HUP,
        }
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(anonymous_metadata())
    }

    fn description(&self) -> String {
        String::from("anon_inode:[interrupt]")
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
