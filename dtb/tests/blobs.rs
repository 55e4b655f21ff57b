//! The view on whole blobs: a board of our own with the difficult shapes, and what QEMU gives its machines.

mod common;

use common::{BOARD, qemu_virt};
use dtb::{Cpu, DmaRange, DtbError, Interrupt, Node, Psci, PsciMethod, Tree};

fn regs(node: Node<'_>) -> Vec<Result<(u64, u64), DtbError>> {
    node.reg().collect()
}

/// Controller phandle and cells of every interrupt.
fn interrupts(node: Node<'_>) -> Vec<(u32, Vec<u32>)> {
    let plain = |interrupt: Interrupt| (interrupt.controller, interrupt.cells().to_vec());
    node.interrupts().map(|interrupt| plain(interrupt.unwrap())).collect()
}

fn with_board(test: impl FnOnce(&Tree<'_>)) {
    test(&Tree::new(BOARD).unwrap());
}

#[test]
fn blob_is_what_the_source_compiles_to() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blobs/board.dts");
    let output = std::process::Command::new("dtc").args(["-q", "-I", "dts", "-O", "dtb", source]).output();
    // Without a compiler there is nothing to compare with; the blob itself is still tested.
    if let Ok(output) = output {
        assert_eq!(output.stdout, BOARD, "board.dts has changed: compile it again");
    }
}

#[test]
fn nodes_are_found_by_path_alias_and_phandle() {
    with_board(|tree| {
        let uart = tree.node("/soc/serial@7e201000").unwrap();
        assert_eq!(tree.node("serial0"), Some(uart));
        assert_eq!(tree.node("soc/serial@7e201000"), Some(uart));
        assert_eq!(tree.node("/soc/serial"), Some(uart), "the unit address may be left out");
        assert_eq!(uart.path(), "/soc/serial@7e201000");
        assert_eq!(tree.root().path(), "/");
        assert_eq!(tree.node("/"), Some(tree.root()));
        assert_eq!(tree.node("/soc/serial@0"), None);
        assert_eq!(tree.node("serial1"), None);
        assert_eq!(tree.node(""), None);
        let gic = tree.node("/soc/interrupt-controller").unwrap();
        assert_eq!(tree.by_phandle(gic.phandle().unwrap()), Some(gic));
        assert_eq!(tree.by_phandle(0), None);
        assert_eq!(tree.by_phandle(0xdead), None);
    });
}

#[test]
fn walking_the_tree_sees_every_node_once() {
    with_board(|tree| {
        let names: Vec<_> = tree.root().children().map(|node| node.name()).collect();
        assert_eq!(names[..4], ["aliases", "chosen", "memory@0", "memory@100000000"]);
        assert!(names.contains(&"a-name-that-is-longer-than-the-31-characters-of-the-specification"));
        for node in tree.nodes() {
            assert_eq!(tree.node(&node.path()), Some(node));
            for child in node.children() {
                assert_eq!(child.parent(), Some(node));
            }
        }
        let below: usize = tree.root().children().map(|child| 1 + child.descendants().count()).sum();
        assert_eq!(tree.nodes().count(), 1 + below);
    });
}

#[test]
fn properties_are_typed_only_where_they_fit() {
    with_board(|tree| {
        let uart = tree.node("serial0").unwrap();
        assert_eq!(uart.compatible().collect::<Vec<_>>(), ["arm,pl011", "arm,primecell"]);
        assert!(uart.is_compatible("arm,primecell") && !uart.is_compatible("arm"));
        assert_eq!(uart.property("dma-noncoherent"), Some([].as_slice()));
        assert_eq!(uart.property("missing"), None);
        assert_eq!(uart.property_u32("reg"), None, "two cells");
        assert_eq!(uart.property_u64("reg"), Some(0x7e20_1000_0000_0200));
        assert_eq!(uart.property_str("compatible"), None, "two strings");
        assert_eq!(tree.model(), Some("Piton test board"));
        assert_eq!(tree.compatible().collect::<Vec<_>>(), ["piton,test-board", "piton,test"]);
    });
}

#[test]
fn status_absent_or_okay_is_okay() {
    with_board(|tree| {
        assert!(tree.node("serial0").unwrap().status_okay());
        assert!(tree.node("/soc/outside").unwrap().status_okay());
        assert!(!tree.node("/soc/gpio").unwrap().status_okay());
    });
}

#[test]
fn reg_is_translated_through_every_bus() {
    with_board(|tree| {
        assert_eq!(regs(tree.node("serial0").unwrap()), [Ok((0xfe20_1000, 0x200))]);
        let gic = tree.node("/soc/interrupt-controller").unwrap();
        assert_eq!(regs(gic), [Ok((0xff84_1000, 0x1000)), Ok((0xff84_2000, 0x2000))], "the second window");
        let inner = tree.node("/soc/inner-bus/device").unwrap();
        assert_eq!(regs(inner), [Ok((0xfe40_8000, 0x100)), Err(DtbError::NotTranslatable)], "two buses");
        let pcie = tree.node("/scb/pcie").unwrap();
        assert_eq!(regs(pcie), [Ok((0xfd50_0000, 0x9310))]);
        assert_eq!(regs(pcie.child("bar").unwrap()), [Ok((0x6_0010_0000, 0x1000))], "three cells");
    });
}

#[test]
fn reg_outside_every_window_or_behind_a_closed_bus_is_not_translatable() {
    with_board(|tree| {
        assert_eq!(regs(tree.node("/soc/outside").unwrap()), [Err(DtbError::NotTranslatable)]);
        let sensor = tree.node("/soc/hidden-bus/sensor").unwrap();
        assert_eq!(regs(sensor), [Err(DtbError::NotTranslatable)]);
        assert_eq!(sensor.reg_untranslated().collect::<Vec<_>>(), [Ok((0x48, 0))]);
        assert_eq!(regs(tree.root()), []);
    });
}

#[test]
fn interrupts_are_followed_to_their_controller() {
    with_board(|tree| {
        let phandle = |path| tree.node(path).unwrap().phandle().unwrap();
        let (gic, gpio) = (phandle("/soc/interrupt-controller"), phandle("/soc/gpio"));
        assert_eq!(interrupts(tree.node("serial0").unwrap()), [(gic, vec![0, 121, 4])], "inherited parent");
        let sensor = tree.node("/soc/hidden-bus/sensor").unwrap();
        assert_eq!(interrupts(sensor), [(gpio, vec![17, 2]), (gic, vec![1, 9, 0xf08])], "extended");
        let inner = tree.node("/soc/inner-bus/device").unwrap();
        assert_eq!(interrupts(inner), [(gic, vec![0, 50, 1])], "one nexus");
        let usb = tree.node("/scb/pcie/usb").unwrap();
        assert_eq!(interrupts(usb), [(gic, vec![0, 144, 4])], "the parent node is the nexus");
        let bar = tree.node("/scb/pcie/bar").unwrap();
        let first = bar.interrupt(0).unwrap().unwrap();
        assert_eq!((first.controller, first.cells()), (gic, [0, 51, 1].as_slice()), "two nexus nodes");
        assert_eq!(bar.interrupt(1), Some(Err(DtbError::BadInterrupt("no interrupt-map entry matches"))));
        assert_eq!(bar.interrupt(2), None);
    });
}

#[test]
fn interrupts_that_lead_nowhere_are_errors() {
    with_board(|tree| {
        let looping = tree.node("/looping").unwrap();
        assert_eq!(looping.interrupt(0), Some(Err(DtbError::BadInterrupt("interrupt-map loop"))));
        assert!(matches!(looping.interrupt(1), Some(Err(DtbError::BadInterrupt(_)))));
        let orphan = tree.node("/orphan").unwrap();
        assert_eq!(orphan.interrupt(0), Some(Err(DtbError::BadProperty("interrupts"))));
        assert_eq!(orphan.interrupts().count(), 1, "an error ends the list");
    });
}

#[test]
fn dma_addresses_are_shifted_by_the_buses_above() {
    with_board(|tree| {
        let uart = tree.node("serial0").unwrap();
        let window = DmaRange { bus: 0xc000_0000, cpu: 0, size: 0x4000_0000 };
        assert_eq!(uart.dma_ranges(), Some(vec![window]));
        assert_eq!(uart.cpu_to_bus(0x1000, 0x1000), Some(0xc000_1000));
        assert_eq!(uart.bus_to_cpu(0xc000_1000, 0x1000), Some(0x1000));
        assert_eq!(uart.cpu_to_bus(0x3fff_f000, 0x1001), None, "beyond the window");
        assert_eq!(uart.cpu_to_bus(0x4000_0000, 0), None);
        let inner = tree.node("/soc/inner-bus/device").unwrap();
        assert_eq!(inner.cpu_to_bus(0x1000, 1), Some(0xc000_1000), "through an identity bus");
        let usb = tree.node("/scb/pcie/usb").unwrap();
        assert_eq!(usb.cpu_to_bus(0x1_2345_0000, 1), Some(0x5_2345_0000));
        let pcie = tree.node("/scb/pcie").unwrap();
        assert_eq!(pcie.dma_ranges(), None);
        assert_eq!(pcie.cpu_to_bus(0x1_2345_0000, 1), Some(0x1_2345_0000));
    });
}

#[test]
fn dma_coherence_is_inherited_and_can_be_revoked() {
    with_board(|tree| {
        assert!(tree.node("/soc/inner-bus/device").unwrap().dma_coherent());
        assert!(!tree.node("/soc/gpio").unwrap().dma_coherent());
    });
    let virt = qemu_virt(3);
    let tree = Tree::new(&virt).unwrap();
    assert!(tree.node("/fw-cfg@9020000").unwrap().dma_coherent());
}

#[test]
fn chosen_memory_and_reservations_are_read() {
    with_board(|tree| {
        let chosen = tree.chosen();
        assert_eq!(chosen.bootargs, Some("console=ttyAMA0 quiet"));
        assert_eq!(chosen.stdout_path, tree.node("/soc/serial@7e201000"));
        assert_eq!(chosen.initrd, Some(0x800_0000..0x900_0000), "two cells and one");
        assert_eq!(chosen.rng_seed.unwrap().len(), 8);
        assert_eq!(tree.memory(), [0..0x3c00_0000, 0x4000_0000..0xfc00_0000], "no empty or disabled ones");
        assert_eq!(tree.reserved(), [0..0x1000, 0x3b00_0000..0x3c00_0000]);
    });
}

#[test]
fn cpus_and_firmware_are_read() {
    with_board(|tree| {
        let cpu = |reg, release| Cpu { reg, enable_method: Some("spin-table"), release_addr: Some(release) };
        assert_eq!(tree.cpus(), [cpu(0, 0xd8), cpu(0x101, 0xe0)], "without the failed one");
        assert_eq!(tree.psci(), Some(Psci { method: PsciMethod::Smc }));
    });
}

#[test]
fn qemu_virt_reads_as_documented() {
    for gic_version in [2, 3] {
        let blob = qemu_virt(gic_version);
        let tree = Tree::new(&blob).unwrap();
        assert_eq!(tree.memory(), std::slice::from_ref(&(0x4000_0000..0x6000_0000)));
        assert_eq!(tree.reserved(), []);
        assert_eq!(tree.psci(), Some(Psci { method: PsciMethod::Hvc }));
        assert_eq!(tree.cpus().len(), 4);
        assert_eq!(tree.cpus()[3], Cpu { reg: 3, enable_method: Some("psci"), release_addr: None });

        let console = tree.chosen().stdout_path.unwrap();
        assert!(console.is_compatible("arm,pl011"));
        assert_eq!(regs(console), [Ok((0x900_0000, 0x1000))]);
        let found = interrupts(console);
        let controller = tree.by_phandle(found[0].0).unwrap();
        assert_eq!(found[0].1, [0, 1, 4]);
        assert_eq!(controller.is_compatible("arm,gic-v3"), gic_version == 3);
        assert_eq!(regs(controller)[0], Ok((0x800_0000, 0x1_0000)));

        let slots = tree.nodes().filter(|node| node.is_compatible("virtio,mmio"));
        assert_eq!(slots.filter(|slot| regs(*slot).len() == 1 && interrupts(*slot).len() == 1).count(), 32);
        let timer = tree.nodes().find(|node| node.is_compatible("arm,armv8-timer")).unwrap();
        assert_eq!(interrupts(timer).len(), 4);
    }
}
