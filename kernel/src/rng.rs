//! The kernel's random numbers: ChaCha20 with fast key erasure, seeded from the device tree or hardware.
//!
//! Output is the key stream of a key that is replaced by the stream's own first half on every use, so that a later
//! leak of the state tells nothing about earlier output. Seeds are mixed into the key; until at least 32 bytes have
//! come in, nothing is given out.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit as _, StreamCipher as _},
};

use crate::{
    sync::{IrqLock, Lazy},
    task::wait::WaitQueue,
    time,
};

const KEY_LEN: usize = 32;

struct Generator {
    key: [u8; KEY_LEN],
    /// Bytes of seed so far.
    seeded: usize,
}

static GENERATOR: IrqLock<Generator> = IrqLock::new(Generator { key: [0; KEY_LEN], seeded: 0 });
static READY: AtomicBool = AtomicBool::new(false);
/// Woken when the first seed is complete.
static SEEDED: Lazy<Arc<WaitQueue>> = Lazy::new(|| Arc::new(WaitQueue::new()));

impl Generator {
    /// Replaces the key by the first bytes of its stream and puts the rest into `out`.
    fn generate(&mut self, out: &mut [u8]) {
        let mut cipher = ChaCha20::new(&self.key.into(), &[0; 12].into());
        let mut next = [0; KEY_LEN];
        cipher.apply_keystream(&mut next);
        out.fill(0);
        cipher.apply_keystream(out);
        self.key = next;
    }

    fn absorb(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(KEY_LEN) {
            for (own, new) in self.key.iter_mut().zip(chunk) {
                *own ^= new;
            }
            self.generate(&mut []);
        }
    }
}

/// Mixes a seed in. Only `bytes` that nobody outside knows count towards readiness.
pub fn add_seed(bytes: &[u8]) {
    let mut generator = GENERATOR.lock();
    generator.absorb(bytes);
    // Two boots from one seed (a snapshot) should at least differ by their time.
    generator.absorb(&time::realtime_ns().to_ne_bytes());
    generator.seeded += bytes.len();
    if generator.seeded >= KEY_LEN && !READY.swap(true, Ordering::Release) {
        drop(generator);
        SEEDED.wake_all();
    }
}

/// Mixes in what a program wrote to /dev/random; it counts for nothing.
pub fn stir(bytes: &[u8]) {
    GENERATOR.lock().absorb(bytes);
}

/// Whether a seed has come.
pub fn is_ready() -> bool {
    READY.load(Ordering::Acquire)
}

/// What to wait on for readiness.
pub fn ready_queue() -> &'static Arc<WaitQueue> {
    &SEEDED
}

/// Fills `out` with bytes that need not be secret: before the first seed they come from the time alone.
pub fn fill_insecure(out: &mut [u8]) {
    let mut generator = GENERATOR.lock();
    generator.absorb(&time::monotonic_ns().to_ne_bytes());
    generator.generate(out);
}

/// Fills `out` now, seeded or not; says so in the log when not.
pub fn fill_now(out: &mut [u8]) -> Result<()> {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if is_ready() {
        return fill(out);
    }
    if !WARNED.swap(true, Ordering::Relaxed) {
        log::warn!("random numbers were taken before any entropy came: do not use them for secrets");
    }
    fill_insecure(out);
    Ok(())
}

/// Fills `out` with random bytes. EAGAIN before the first seed.
pub fn fill(out: &mut [u8]) -> Result<()> {
    if !is_ready() {
        return Err(Errno::EAGAIN);
    }
    for chunk in out.chunks_mut(4096) {
        GENERATOR.lock().generate(chunk);
    }
    Ok(())
}
