"""Put layers on top of each other as the OCI image spec says (layer.md, section Applying Changesets)."""

from __future__ import annotations

from drivers.nydus.layer_tree import OPAQUE, WHITEOUT, copy_attributes, whiteout_target
from drivers.nydus.paths import find, resolve_directory
from drivers.nydus.tree import Inode, Mark, directory, inodes
from shared.errors import CorruptLayerError


class Overlay:
    """The image's tree so far. Layers are applied lowest first; their trees are left as they are."""

    def __init__(self) -> None:
        self.root = directory()

    def apply(self, layer: Inode) -> None:
        """Apply one layer's tree.

        Whiteouts hide what *lower* layers have, wherever in the tar they stood; the layer's own entries survive.

        Raises:
            CorruptLayerError: a hard link to a path where no file is.
        """
        links = _Links(self.root, layer)
        self._hide(layer)
        if layer.mark is not Mark.IMPLIED:
            copy_attributes(layer, self.root)
        pending = [(self.root, b"", layer)]
        while pending:
            lower, path, upper = pending.pop()
            self._add(lower, path, upper, links, pending)
        links.resolve()

    def _hide(self, layer: Inode) -> None:
        """Take away all that the layer's whiteouts name, before anything of its own is there to be hidden."""
        pending = [(self.root, b"", layer)]
        while pending:
            lower, path, upper = pending.pop()
            below, above = lower.children or {}, upper.children or {}
            if OPAQUE in above:
                below.clear()
            if not below:
                continue
            for name, inode in above.items():
                hidden = whiteout_target(name)
                if hidden is not None:
                    below.pop(hidden, None)
                elif inode.children:
                    child_path = path + name + b"/"
                    found = below.get(name)
                    if found is not None and _leads_on(found, inode):
                        found = self._resolve(child_path, create=None)
                    if found is not None and found.children is not None:
                        pending.append((found, child_path, inode))

    def _add(
        self,
        lower: Inode,
        path: bytes,
        upper: Inode,
        links: _Links,
        pending: list[tuple[Inode, bytes, Inode]],
    ) -> None:
        below = lower.children
        above = upper.children
        if below is None or above is None:
            raise CorruptLayerError(f"{path[:200]!r} is used as a directory and is none")
        for name, inode in above.items():
            if name.startswith(WHITEOUT):
                continue
            if inode.children is None:
                below[name] = inode
                if inode.mark is Mark.LOWER_LINK:
                    links.places.append((below, name, inode))
                continue
            child_path = path + name + b"/"
            found = self._directory(below, child_path, name, inode)
            if found is not None:
                pending.append((found, child_path, inode))

    def _directory(self, below: dict[bytes, Inode], path: bytes, name: bytes, upper: Inode) -> Inode | None:
        """The directory that ``upper``'s entries go into; None if it has none."""
        old = below.get(name)
        if old is not None and old.children is not None:
            if upper.mark is not Mark.IMPLIED:
                copy_attributes(upper, old)
            return old
        if upper.mark is Mark.IMPLIED and not _has_entries(upper):
            return None
        if old is not None and _leads_on(old, upper):
            return self._resolve(path, create=Mark.NONE)
        new = directory()
        copy_attributes(upper, new)
        below[name] = new
        return new

    def _resolve(self, path: bytes, *, create: Mark | None) -> Inode | None:
        return resolve_directory(self.root, path.rstrip(b"/").split(b"/"), create=create)


class _Links:
    """One layer's hard links to paths that it had nothing at when the link came."""

    def __init__(self, root: Inode, layer: Inode) -> None:
        self.places: list[tuple[dict[bytes, Inode], bytes, Inode]] = []
        """Directory, name and link, where they have been put into the image's tree."""
        self._root = root
        self._layer = layer
        links = {inode for inode in inodes(layer) if inode.mark is Mark.LOWER_LINK}
        self._before = {link: _file(root, link.target) for link in links}

    def resolve(self) -> None:
        """With the layer's own entries in place: put what is linked where the links stand."""
        for children, name, link in self.places:
            if children.get(name) is not link:
                continue  # the layer has put another file there, by another spelling of the path
            found = self._linked(link)
            if found is None:
                raise CorruptLayerError(
                    f"{name!r} is a hard link to {link.target[:200]!r}, which is no file of the image"
                )
            children[name] = found

    def _linked(self, link: Inode) -> Inode | None:
        seen = {link}
        found: Inode | None = link
        while found is not None and found.mark is Mark.LOWER_LINK:
            now = _file(self._root, found.target)
            # The layer's own file under another spelling of the path, through links of lower layers. Under the very same
            # path it came after the link, or the link would be one inside the layer.
            is_own = now is not None and now not in seen and now is not _file(self._layer, found.target)
            found = now if is_own else self._before[found]
            if found is not None:
                seen.add(found)
        return found


def _file(root: Inode, path: bytes) -> Inode | None:
    """What a hard link to ``path`` can be one of."""
    found = find(root, path.split(b"/"))
    return None if found is None or found.children is not None else found


def _leads_on(lower: Inode, upper: Inode) -> bool:
    """Whether the tar has no entry of its own for a directory, so that its files go where the lower layer's link leads."""
    return lower.is_symlink and upper.mark is Mark.IMPLIED


def _has_entries(upper: Inode) -> bool:
    """Whether an implied directory has more in it than whiteouts, which make nothing."""
    pending = [upper]
    while pending:
        for name, inode in (pending.pop().children or {}).items():
            if name.startswith(WHITEOUT):
                continue
            if inode.mark is not Mark.IMPLIED:
                return True
            pending.append(inode)
    return False
