"""The device tree as objects, compared with what libfdt's own tools say of the same blob."""

import pathlib
import random
import subprocess
import tempfile
import unittest

from piton.hardware import values
from piton.hardware.errors import BadDeviceTree, DeviceError, NoSuchDevice
from piton.hardware.tree import Range, Tree

_BOARD = pathlib.Path(__file__).parents[2] / "dtb/tests/blobs/board.dtb"
_SMALL = """/dts-v1/;
/ {
    compatible = "test,board"; #address-cells = <1>; #size-cells = <1>; interrupt-parent = <&gic>;
    gic: gic@1000 { compatible = "test,gic"; reg = <0x1000 0x100>; interrupt-controller; #interrupt-cells = <2>; };
    bus@10000000 {
        compatible = "simple-bus"; #address-cells = <1>; #size-cells = <1>; ranges = <0 0x10000000 0x1000>;
        serial: serial@100 {
            compatible = "test,uart", "test,any"; reg = <0x100 0x10>, <0x2000 4>; interrupts = <5 4>;
        };
        2wire { clock-frequency = <0x41424300>; empty; text = "a b"; mixed = [01 02 03]; words = "a", "b"; };
    };
    private { #address-cells = <1>; #size-cells = <0>; sensor@48 { reg = <0x48>; }; };
    aliases { serial0 = &serial; };
};
"""


def _compile(source: str) -> bytes:
    command = ["dtc", "-q", "-I", "dts", "-O", "dtb"]
    return subprocess.run(command, input=source.encode(), capture_output=True, check=True).stdout


def _fdtget(blob: str, *arguments: str) -> str:
    command = ["fdtget", *arguments[:-1], blob, *arguments[-1].split()]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


class AgainstLibfdt(unittest.TestCase):
    def check(self, blob: bytes) -> None:
        tree = Tree(blob)
        with tempfile.NamedTemporaryFile() as file:
            file.write(blob)
            file.flush()
            paths = ["/"]
            for path in paths:
                node = tree[path]
                below = _fdtget(file.name, "-l", path).splitlines()
                self.assertEqual([child.name for child in node.children], below)
                paths += [f"{path.rstrip('/')}/{name}" for name in below]
                self.assertEqual(list(node.raw), _fdtget(file.name, "-p", path).splitlines())
                for name, raw in node.raw.items():
                    shown = _fdtget(file.name, "-t", "bx", f"{path} {name}").split() if raw else []
                    self.assertEqual([int(byte, 16) for byte in shown], list(raw), f"{path} {name}")
        self.assertCountEqual([node.path for node in tree.walk()], paths)

    def test_a_small_tree_is_the_same(self) -> None:
        self.check(_compile(_SMALL))

    def test_the_test_board_is_the_same(self) -> None:
        self.check(_BOARD.read_bytes())


class Found(unittest.TestCase):
    def setUp(self) -> None:
        self.tree = Tree(_compile(_SMALL))

    def test_nodes_are_found_by_path_alias_attribute_and_kind(self) -> None:
        serial = self.tree["/bus@10000000/serial@100"]
        for same in (
            self.tree["/bus/serial"],
            self.tree["serial0"],
            self.tree.bus.serial_100,
            self.tree["/bus"]["serial"],
            *self.tree.find("test,any"),
        ):
            self.assertIs(same, serial)
        self.assertEqual(serial.path, "/bus@10000000/serial@100")
        self.assertIs(serial.parent, self.tree.bus)
        self.assertEqual(repr(serial), "</bus@10000000/serial@100 test,uart, 3 properties, 0 children>")

    def test_registers_are_translated_and_those_of_other_buses_as_they_stand(self) -> None:
        self.assertEqual(self.tree["serial0"].reg, (Range(0x10000100, 0x10), Range(0x2000, 4, False)))
        self.assertEqual(self.tree.private.sensor.reg, (Range(0x48, 0, False),))
        self.assertEqual(repr(self.tree["serial0"].reg), "(<0x10000100+0x10>, <0x2000+0x4, not mapped>)")

    def test_interrupts_lead_to_their_controller(self) -> None:
        [interrupt] = self.tree["serial0"].interrupts
        self.assertIs(interrupt.controller, self.tree.gic)
        self.assertEqual((interrupt.cells, str(interrupt)), ((5, 4), "gic@1000 5 4"))

    def test_values_are_typed_by_name_then_by_look_with_the_bytes_at_hand(self) -> None:
        wire = self.tree.bus["2wire"]
        self.assertEqual(
            wire.properties,
            {
                "clock-frequency": 0x41424300,
                "empty": True,
                "text": "a b",
                "mixed": b"\1\2\3",
                "words": ("a", "b"),
            },
        )
        self.assertEqual((wire.clock_frequency, wire.raw["clock-frequency"]), (0x41424300, b"ABC\0"))
        self.assertEqual(self.tree.compatible, ("test,board",))

    def test_tab_offers_properties_and_children(self) -> None:
        self.assertLessEqual({"bus", "bus_10000000", "gic", "interrupt_parent", "walk"}, set(dir(self.tree)))
        self.assertIn("_2wire", dir(self.tree.bus))
        self.assertIn("/bus@10000000/serial@100", self.tree._ipython_key_completions_())

    def test_what_is_not_there_is_named(self) -> None:
        with self.assertRaisesRegex(NoSuchDevice, "/bus@10000000: it has no child 'uart'"):
            self.tree["/bus/uart"]
        with self.assertRaisesRegex(LookupError, "there is no alias 'serial9'"):
            self.tree["serial9"]
        with self.assertRaisesRegex(AttributeError, "no property and no child 'nothing'"):
            self.tree.nothing


class Malformed(unittest.TestCase):
    def test_bad_properties_name_their_node(self) -> None:
        source = """/dts-v1/;
            / { a@1 { reg = [01 02 03]; }; b { #address-cells = <3>; c { reg = <1 2>; }; };
                d { interrupts = <1>; }; };"""
        tree = Tree(_compile(source))
        for path, why in (("/a@1", "3 bytes are not"), ("/b/c", "2 cells are not rows of 3 \\+ 1")):
            with self.assertRaisesRegex(BadDeviceTree, f"{path}: reg: {why}"):
                tree[path].reg
        with self.assertRaisesRegex(DeviceError, "/d: its interrupts do not fit their controller"):
            tree.d.interrupts

    def test_texts_that_are_none_stay_bytes(self) -> None:
        for raw in (b"abc", b"\xff\0", b"a\1\0"):
            self.assertEqual(values.typed("compatible", raw), raw)

    def test_damaged_blobs_are_refused_and_nothing_else(self) -> None:
        blob = _BOARD.read_bytes()
        for length in range(0, len(blob), 7):
            with self.assertRaises(BadDeviceTree):
                Tree(blob[:length])
        numbers = random.Random(5)
        for _ in range(1500):
            damaged = bytearray(blob)
            for _ in range(numbers.randint(1, 8)):
                damaged[numbers.randrange(len(blob))] = numbers.randrange(256)
            try:
                for node in Tree(bytes(damaged)).walk():
                    node.reg, node.interrupts, node.properties, dir(node), repr(node)
            except BadDeviceTree:
                pass
