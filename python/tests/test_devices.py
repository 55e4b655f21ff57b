"""The table of devices, from what a kernel tells."""

import json
import unittest
from unittest import mock

import piton
from piton.hardware import devices as module
from piton.hardware.errors import NoSuchDevice

_INTC = {"controller": "/intc@8000000", "cells": [0, 2, 4], "number": 34, "trigger": "level high", "per_cpu": False}
_TOLD = [
    {
        "path": path,
        "compatible": compatible,
        "driver": driver,
        "state": state,
        "reason": reason,
        "registers": registers,
        "interrupts": interrupts,
    }
    for path, compatible, driver, state, reason, registers, interrupts in (
        ("/rtc@9010000", ["arm,pl031", "arm,primecell"], "pl031", "bound", None, [[0x9010000, 0x1000]], [_INTC]),
        ("/virtio_mmio@a000000", ["virtio,mmio"], "virtio_mmio", "unclaimed", "empty", [[0xA000000, 512]], []),
        ("/virtio_mmio@a000200", ["virtio,mmio"], "virtio_mmio", "failed", "bad node", [], [{"error": "no parent"}]),
        ("/", ["linux,dummy-virt"], None, "unclaimed", "no driver", [], []),
    )
]


class Listed(unittest.TestCase):
    def setUp(self) -> None:
        patch = mock.patch.object(module, "read_control", lambda name: json.dumps(_TOLD))
        patch.start()
        self.addCleanup(patch.stop)

    def test_it_is_a_table(self) -> None:
        expected = (
            "name                 compatible        driver       registers         interrupts     state      why\n"
            "rtc@9010000          arm,pl031         pl031        0x9010000+0x1000  34 level high  bound      -\n"
            "virtio_mmio@a000000  virtio,mmio       virtio_mmio  0xa000000+0x200   -              unclaimed  empty\n"
            "virtio_mmio@a000200  virtio,mmio       virtio_mmio  -                 no parent      failed     bad node\n"
            "/                    linux,dummy-virt  -            -                 -              unclaimed  no driver"
        )
        self.assertEqual(repr(piton.devices), expected)
        self.assertEqual(len(piton.devices), 4)

    def test_devices_are_found_by_path_name_driver_and_kind(self) -> None:
        clock = piton.devices["/rtc@9010000"]
        for name in ("rtc@9010000", "rtc", "pl031", "arm,pl031", "arm,primecell", "primecell"):
            self.assertEqual(piton.devices[name], clock)
            self.assertIn(name, piton.devices)
        self.assertEqual((piton.devices.rtc, piton.devices.rtc_9010000), (clock, clock))
        self.assertEqual(piton.devices["virtio_mmio@a000200"].state, "failed")
        shown = "</rtc@9010000: arm,pl031, pl031, 0x9010000+0x1000, 34 level high, bound>"
        self.assertEqual(repr(clock), shown)
        self.assertLessEqual({"rtc", "virtio_mmio_a000000", "find"}, set(dir(piton.devices)))

    def test_what_is_not_there_or_not_one_is_named(self) -> None:
        with self.assertRaisesRegex(NoSuchDevice, "^pl099: there is no such device"):
            piton.devices["pl099"]
        with self.assertRaisesRegex(NoSuchDevice, "^virtio,mmio: 2 devices are called that: /virtio_mmio@a000000, "):
            piton.devices["virtio,mmio"]
        with self.assertRaisesRegex(AttributeError, "there is no device 'virtio_mmio'"):
            piton.devices.virtio_mmio
        self.assertEqual(len(piton.devices.find("virtio,mmio")), 2)
