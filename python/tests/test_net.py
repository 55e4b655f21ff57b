"""What the kernel tells of its network, here that of the host, and how it is shown."""

import ipaddress
import os
import socket
import unittest

import piton
from piton import net, repl


class Seen(unittest.TestCase):
    def test_it_is_there_without_an_import_of_its_own(self) -> None:
        self.assertIs(piton.net, net)
        self.assertIn("net", dir(piton))

    def test_interfaces_have_names_and_addresses(self) -> None:
        found = net.interfaces()
        self.assertEqual([(one.index, one.name) for one in found], socket.if_nameindex())
        [loopback] = [one for one in found if one.name == "lo"]
        self.assertIn(ipaddress.ip_interface("127.0.0.1/8"), loopback.addresses)
        self.assertTrue(loopback.up)

    def test_routes_lead_to_networks(self) -> None:
        names = [name for _, name in socket.if_nameindex()]
        for route in net.routes():
            self.assertIn(route.interface, names)
            self.assertIsInstance(route.destination, (ipaddress.IPv4Network, ipaddress.IPv6Network))

    def test_connections_have_both_ends_and_an_owner(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as client:
                mine = [one for one in net.connections() if port in (one.local.port, one.remote.port)]
                self.assertEqual({one.state for one in mine}, {"listening", "established"})
                [one] = [one for one in mine if one.remote.port == port]
                self.assertEqual(one.local, (ipaddress.ip_address("127.0.0.1"), client.getsockname()[1]))
                self.assertIn(os.getpid(), one.processes)

    def test_a_datagram_for_nobody_is_counted(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind(("127.0.0.1", 0))
            nobody = unused.getsockname()
        before = net.stats().dropped.get("Udp.NoPorts", 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", nobody)
        self.assertGreater(net.stats().dropped["Udp.NoPorts"], before)
        self.assertIn("lo", net.stats().interfaces)


class Shown(unittest.TestCase):
    def test_a_table_has_a_line_for_each(self) -> None:
        address, gateway = ipaddress.ip_network("10.0.2.0/24"), ipaddress.ip_address("10.0.2.2")
        table = net.Table([net.Route(address, None, "eth0", 0), net.Route(address, gateway, "eth0", 5)])
        expected = (
            "destination  gateway   interface  metric\n"
            "10.0.2.0/24  -         eth0       0\n"
            "10.0.2.0/24  10.0.2.2  eth0       5"
        )
        self.assertEqual(repr(table), expected)
        self.assertEqual(repr(net.Table()), "[]")

    def test_ends_of_connections(self) -> None:
        for address, port, shown in ("::1", 80, "[::1]:80"), ("10.0.2.2", 9, "10.0.2.2:9"), ("0.0.0.0", 0, "*:*"):
            self.assertEqual(str(net.Endpoint(ipaddress.ip_address(address), port)), shown)

    def test_what_was_dropped_comes_with_its_reason(self) -> None:
        traffic = {"rx_packets": 1000, "rx_bytes": 5, "tx_packets": 2, "tx_bytes": 6, "rx_dropped": 4, "tx_errors": 0}
        counts = {"Udp.NoPorts": 3, "Ip.InHdrErrors": 0, "Ip.InReceives": 1000}
        shown = net.Stats(counts, {"eth0": traffic}, {"telnet options": 2})
        self.assertEqual(shown.dropped, {"Udp.NoPorts": 3, "eth0.rx_dropped": 4, "sessions.telnet options": 2})
        self.assertEqual(
            repr(shown),
            "eth0: 1,000 packets (5 bytes) came, 2 (6) went\n"
            "dropped:\n"
            "  3  datagrams for no socket (Udp.NoPorts)\n"
            "  4  eth0.rx_dropped\n"
            "  2  sessions.telnet options",
        )
        self.assertTrue(repr(net.Stats({}, {}, {})).endswith("dropped: nothing"))

    def test_sessions_count_what_they_refuse(self) -> None:
        before = net.stats().sessions.get("a test", 0)
        repl.refuse("a test")
        self.assertEqual(net.stats().dropped["sessions.a test"], before + 1)


if __name__ == "__main__":
    unittest.main()
