//! The machines that reach the prompt.

use board::launch::{Network, Options};
use tests::{Guest, guest, image, raw, tree};

/// Boots and shows that Python is there and works.
fn reaches_the_prompt(name: &str, options: Options) {
    works(Guest::boot(name, options));
}

fn works(mut guest: Guest) {
    guest.wait_for("Python 3.", guest::BOOT);
    guest.wait_for_prompt();
    guest.ask("print(123457 * 8)", "987656");
}

fn cpus_and_gic(cpus: u32, gic: u32) -> Options {
    Options { cpus: Some(cpus), gic: Some(gic), ..Options::default() }
}

fn memory(size: &str) -> Options {
    Options { memory: Some(size.into()), ..Options::default() }
}

#[test]
fn one_cpu_with_gicv2() {
    reaches_the_prompt("one_cpu_with_gicv2", cpus_and_gic(1, 2));
}

#[test]
fn one_cpu_with_gicv3() {
    reaches_the_prompt("one_cpu_with_gicv3", cpus_and_gic(1, 3));
}

#[test]
fn four_cpus_with_gicv2() {
    reaches_the_prompt("four_cpus_with_gicv2", cpus_and_gic(4, 2));
}

#[test]
fn four_cpus_with_gicv3() {
    reaches_the_prompt("four_cpus_with_gicv3", cpus_and_gic(4, 3));
}

#[test]
fn memory_of_64_mib() {
    // With all that `make run-arm64` has, and without a second try.
    let network = Network::User { forward: Vec::new(), restricted: true };
    let mut guest = Guest::boot("memory_of_64_mib", Options { network, ..memory("64M") });
    guest.wait_for("Python 3.", guest::BOOT);
    guest.wait_for_prompt();
    guest.ask("'again' in piton.log(), 'no sessions' in piton.log()", "(False, False)");
}

#[test]
fn memory_of_128_mib() {
    reaches_the_prompt("memory_of_128_mib", memory("128M"));
}

#[test]
fn memory_of_1_gib() {
    reaches_the_prompt("memory_of_1_gib", memory("1G"));
}

#[test]
fn memory_of_4_gib() {
    reaches_the_prompt("memory_of_4_gib", memory("4G"));
}

#[test]
fn other_cpu_model() {
    reaches_the_prompt("other_cpu_model", Options { cpu: Some("max".into()), ..Options::default() });
}

#[test]
fn entry_at_el2() {
    let extra = vec!["-machine".into(), "virtualization=on".into()];
    reaches_the_prompt("entry_at_el2", Options { extra, ..Options::default() });
}

#[test]
fn entry_at_el2_with_gicv3() {
    let extra = vec!["-machine".into(), "virtualization=on".into()];
    reaches_the_prompt("entry_at_el2_with_gicv3", Options { extra, gic: Some(3), ..Options::default() });
}

#[test]
fn entry_at_el3() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut options = raw::options(folder.path(), &image::path(), None, raw::QEMU_TREE);
    options.extra.extend(["-machine".into(), "secure=on".into()]);
    works(Guest::start("entry_at_el3", options));
}

/// Where the image is the firmware, every CPU says how often the counter counts, as the tree does. The second one waits
/// in a spin table, at EL3 too.
#[test]
fn entry_at_el3_tells_the_counters_frequency() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("timer.dtb");
    let secure = || vec!["-machine".into(), "secure=on".into()];
    tree::dump_for(&file, Options { cpus: Some(2), extra: secure(), ..Options::default() });
    tree::set_cells(&file, "/timer", "clock-frequency", &["2faf080"]);
    tree::set_text(&file, "/cpus/cpu@1", "enable-method", "spin-table");
    let word = format!("{:x}", raw::RELEASE_WORD);
    tree::set_cells(&file, "/cpus/cpu@1", "cpu-release-addr", &["0", &word]);
    tree::reserve_page(&file, raw::SPINNING);
    let blob = std::fs::read(&file).expect("the tree can be read");
    let mut options = raw::options(folder.path(), &image::path(), Some(&blob), raw::BLOB);
    raw::add_spinning_cpu(folder.path(), &mut options, 1);
    options.cpus = Some(2);
    options.extra.extend(secure());
    let mut guest = Guest::start("entry_at_el3_tells_the_counters_frequency", options);
    guest.wait_for_prompt();
    guest.run("import ctypes, mmap, os; memory = mmap.mmap(-1, 4096, prot=7)");
    // mrs x0, cntfrq_el0; ret
    guest.run("memory.write(bytes.fromhex('00e03bd5c0035fd6'))");
    guest.run("address = ctypes.addressof(ctypes.c_char.from_buffer(memory))");
    guest.run("frequency = ctypes.CFUNCTYPE(ctypes.c_long)(address)");
    let told = "[50000000, 50000000]";
    guest.ask("print([os.sched_setaffinity(0, {cpu}) or frequency() for cpu in range(os.cpu_count())])", told);
}

#[test]
fn loaded_by_a_boot_loader() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = raw::options(folder.path(), &image::path(), None, raw::QEMU_TREE);
    works(Guest::start("loaded_by_a_boot_loader", options));
}

#[test]
fn no_clock_chip() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("no-rtc.dtb");
    tree::dump(&file);
    tree::remove_node(&file, "/pl031@9010000");
    let append = Some("piton.ntp=127.0.0.1".into());
    let mut guest = Guest::boot("no_clock_chip", Options { dtb: Some(file), append, ..Options::default() });
    guest.wait_for_prompt();
    guest.ask("import os, time; print('later', time.time() <= time.time())", "later True");
    guest.ask("print('clocks', os.listdir('/sys/class/rtc'))", "clocks []");
    // The time then comes from the network; here the server is in the machine, and is asked again until it is there.
    guest.run("import socket, struct; server = socket.socket(type=socket.SOCK_DGRAM); server.bind(('127.0.0.1', 123))");
    guest.run("question, peer = server.recvfrom(1024)");
    guest.run("now = (2_000_000_000 + 2_208_988_800) << 32");
    guest.run("answer = struct.pack('!BBbb20x8sQQ', 0x24, 1, 6, -20, question[40:], now, now)");
    guest.run("_ = server.sendto(answer, peer)");
    guest.run("while time.time() < 2_000_000_000: time.sleep(0.01)\n");
    guest.ask("print([line for line in piton.log().splitlines() if 'ntp' in line])", "clock set by 127.0.0.1");
}

#[test]
fn initrd_takes_the_place_of_the_root_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bare = folder.path().join("no-root.img");
    image::write_without_root(&bare);
    let root = folder.path().join("root.erofs");
    image::write_root(&root);
    let options = Options { image: Some(bare), initrd: Some(root), ..Options::default() };
    works(Guest::start("initrd_takes_the_place_of_the_root_image", options));
}
