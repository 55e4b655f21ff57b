"""``piton.tree``: the device tree as objects.

The tree is read from the blob that the kernel was handed, so it is complete and cannot change. Addresses are
translated, interrupts followed to their controllers here, apart from what the kernel does for its drivers.
"""

from collections.abc import Iterator
from typing import NamedTuple

from piton.hardware import blob, values
from piton.hardware.errors import BadDeviceTree, NoSuchDevice
from piton.hardware.names import by_identifier, identifier

_BLOB = "/sys/firmware/fdt"
#: Nexus nodes between a device and its controller; more are a loop.
_HOPS = 16


class Range(NamedTuple):
    """*size* bytes from address *start* on. *mapped* says whether the CPU sees them there."""

    start: int
    size: int
    mapped: bool = True

    def __str__(self) -> str:
        return f"{self.start:#x}+{self.size:#x}"

    def __repr__(self) -> str:
        return f"<{self}{'' if self.mapped else ', not mapped'}>"


class Interrupt(NamedTuple):
    """An interrupt: the node of its controller, and the numbers that name it there."""

    controller: "Node"
    cells: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.controller.name} {' '.join(map(str, self.cells))}"

    def __repr__(self) -> str:
        return f"<{self}>"


class Node:
    """A node of the device tree.

    Its properties are attributes, as Python can write them (``interrupt_parent``), and so are its children
    (``pl011_9000000``, or ``pl011`` where there is one of that name); ``properties`` has them by their own names,
    ``raw`` as bytes, ``children`` the nodes. ``node["child"]`` follows a path.
    """

    def __init__(self, tree: "Tree", name: str, parent: "Node | None") -> None:
        self.tree = tree
        self.name = name
        self.parent = parent
        self.children: list[Node] = []
        self.raw: dict[str, bytes] = {}

    @property
    def path(self) -> str:
        """The full path, such as ``/pl011@9000000``."""
        if self.parent is None:
            return "/"
        return f"{self.parent.path.rstrip('/')}/{self.name}"

    @property
    def properties(self) -> "dict[str, values.Value]":
        """All properties by name, as values."""
        return {name: values.typed(name, raw) for name, raw in self.raw.items()}

    @property
    def compatible(self) -> tuple[str, ...]:
        """What the device is, most specific first."""
        return values.texts(self.raw.get("compatible", b"")) or ()

    @property
    def enabled(self) -> bool:
        """Whether the device is to be used: its ``status`` is ``okay``, or there is none."""
        return self.raw.get("status", b"okay\0") in (b"okay\0", b"ok\0")

    @property
    def reg(self) -> tuple[Range, ...]:
        """The registers, translated to addresses of the CPU; as they stand where the CPU does not see the bus."""
        address_cells, size_cells = self._bus_cells()
        found = []
        for address, size in self._rows("reg", address_cells, size_cells):
            translated = self._translate(address)
            found.append(Range(address, size, False) if translated is None else Range(translated, size))
        return tuple(found)

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """The interrupts, each followed to its controller."""
        extended = "interrupts-extended" in self.raw
        rest = self._cells("interrupts-extended" if extended else "interrupts")
        found = []
        while rest:
            if extended:
                parent, rest = self.tree.by_phandle(rest[0]), rest[1:]
            else:
                parent = self._interrupt_parent()
            count = parent._cell("#interrupt-cells") if parent else None
            if not parent or not count or len(rest) < count:
                raise BadDeviceTree(self.path, "its interrupts do not fit their controller")
            found.append(self._resolve(parent, rest[:count]))
            rest = rest[count:]
        return tuple(found)

    def walk(self) -> "Iterator[Node]":
        """Yield this node and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, compatible: str) -> "list[Node]":
        """Return this node and those below it that are *compatible*."""
        return [node for node in self.walk() if compatible in node.compatible]

    def __getitem__(self, path: str) -> "Node":
        node = self
        for name in filter(None, path.split("/")):
            exact = [child for child in node.children if child.name == name]
            short = [child for child in node.children if child.name.partition("@")[0] == name]
            if not exact and not short:
                raise NoSuchDevice(node.path, f"it has no child {name!r}")
            node = (exact or short)[0]
        return node

    def _attributes(self) -> dict:
        nodes = by_identifier((child.name, child) for child in self.children)
        return nodes | {identifier(name): value for name, value in self.properties.items()}

    def __getattr__(self, name: str):
        # What is asked for before __init__ has run must not ask again.
        if not name.startswith("__") and "raw" in self.__dict__ and name in (known := self._attributes()):
            return known[name]
        raise AttributeError(f"{self.__class__.__name__} has no property and no child {name!r}", name=name, obj=self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._attributes()})

    def __repr__(self) -> str:
        what = f" {self.compatible[0]}" if self.compatible else ""
        return f"<{self.path}{what}, {len(self.raw)} properties, {len(self.children)} children>"

    def _cells(self, name: str) -> tuple[int, ...]:
        try:
            return values.cells(self.raw.get(name, b""))
        except ValueError as error:
            raise BadDeviceTree(self.path, f"{name}: {error}") from None

    def _cell(self, name: str, default: int | None = None) -> int | None:
        found = self._cells(name)
        return found[0] if len(found) == 1 else default

    def _bus_cells(self) -> tuple[int, int]:
        if self.parent is None:
            return 2, 1
        return self.parent._cell("#address-cells", 2), self.parent._cell("#size-cells", 1)

    def _rows(self, name: str, *widths: int) -> Iterator[tuple[int, ...]]:
        """Yield rows of numbers, each of as many cells as *widths* says."""
        rest = self._cells(name)
        if rest and (sum(widths) == 0 or len(rest) % sum(widths)):
            raise BadDeviceTree(self.path, f"{name}: {len(rest)} cells are not rows of {' + '.join(map(str, widths))}")
        while rest:
            row = []
            for width in widths:
                number = 0
                for cell in rest[:width]:
                    number = number << 32 | cell
                row.append(number)
                rest = rest[width:]
            yield tuple(row)

    def _translate(self, address: int) -> int | None:
        bus = self.parent
        while bus is not None and bus.parent is not None:
            if "ranges" not in bus.raw:
                return None
            if bus.raw["ranges"]:
                own, size = bus._cell("#address-cells", 2), bus._cell("#size-cells", 1)
                windows = bus._rows("ranges", own, bus._bus_cells()[0], size)
                fitting = [above + address - below for below, above, len_ in windows if 0 <= address - below < len_]
                if not fitting:
                    return None
                address = fitting[0]
            bus = bus.parent
        return address if address < 1 << 64 else None

    def _interrupt_parent(self) -> "Node | None":
        node = self
        for _ in range(_HOPS * 8):
            phandle = node._cell("interrupt-parent")
            node = node.parent if phandle is None else self.tree.by_phandle(phandle)
            if node is None or "#interrupt-cells" in node.raw:
                return node
        return None

    def _resolve(self, parent: "Node", cells: tuple[int, ...]) -> Interrupt:
        """Follow an interrupt through the interrupt-map of every nexus."""
        unit = self._cells("reg")[: self._bus_cells()[0]]
        for _ in range(_HOPS):
            if "interrupt-controller" in parent.raw or "interrupt-map" not in parent.raw:
                return Interrupt(parent, cells)
            parent, unit, cells = self._through_map(parent, unit + cells)
        raise BadDeviceTree(self.path, "its interrupt-map is a loop")

    def _through_map(self, nexus: "Node", asked: tuple[int, ...]) -> "tuple[Node, tuple[int, ...], tuple[int, ...]]":
        width = nexus._cell("#address-cells", 2) + nexus._cell("#interrupt-cells", 0)
        mask = nexus._cells("interrupt-map-mask") or (0xFFFFFFFF,) * width
        rest = nexus._cells("interrupt-map")
        while len(rest) > width:
            target = self.tree.by_phandle(rest[width])
            if target is None:
                break
            unit, count = target._cell("#address-cells", 0), target._cell("#interrupt-cells", 0)
            row, rest = rest[: width + 1 + unit + count], rest[width + 1 + unit + count :]
            if all((a ^ b) & bits == 0 for a, b, bits in zip(row[:width], asked, mask)) and len(asked) == width:
                return target, row[width + 1 : width + 1 + unit], row[width + 1 + unit :]
        raise BadDeviceTree(self.path, f"nothing in the interrupt-map of {nexus.path} matches its interrupt")


class Tree(Node):
    """A device tree; also its root. ``tree["/pl011@9000000"]`` is a node, ``tree["serial0"]`` one by its alias.

    :raises BadDeviceTree: *source* is no flattened device tree.
    """

    def __init__(self, source: bytes) -> None:
        super().__init__(self, "", None)
        self._phandles: dict[int, Node] = {}
        node: Node | None = None
        for event, name, value in blob.events(source):
            if event == "property":
                node.raw[name] = value
            elif event == "end":
                node = node.parent
            elif node is None:
                node = self
            else:
                node.children.append(Node(self, name, node))
                node = node.children[-1]
        for node in self.walk():
            phandle = node._cell("phandle") or node._cell("linux,phandle")
            if phandle:
                self._phandles.setdefault(phandle, node)

    @property
    def aliases(self) -> "dict[str, Node]":
        """The nodes that have another name in ``/aliases``."""
        named = next((child.raw for child in self.children if child.name == "aliases"), {})
        paths = {name: values.texts(raw) for name, raw in named.items()}
        return {name: super(Tree, self).__getitem__(path[0]) for name, path in paths.items() if path}

    def by_phandle(self, phandle: int) -> Node | None:
        """Return the node that others name by this number."""
        return self._phandles.get(phandle)

    def __getitem__(self, path: str) -> Node:
        if not path.startswith("/"):
            alias, _, path = path.partition("/")
            if alias not in (aliases := self.aliases):
                raise NoSuchDevice("device tree", f"there is no alias {alias!r}; a path begins with '/'")
            return aliases[alias][path]
        return super().__getitem__(path)

    def _ipython_key_completions_(self) -> list[str]:
        return [node.path for node in self.walk()] + list(self.aliases)


def __getattr__(name: str):
    """Read this machine's tree when it is first asked for."""
    if name == "tree":
        with open(_BLOB, "rb") as file:
            globals()["tree"] = Tree(file.read())
        return globals()["tree"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
