"""A layer of everything that a layer may hold."""

from __future__ import annotations

import random
import tarfile

from tests.unit.drivers.layer_blobs import member, tar

MIB = 1 << 20


def crafted() -> bytes:
    noise = random.Random(1).randbytes(9 * MIB)
    return tar(
        [
            member("./", kind=tarfile.DIRTYPE),
            member("./dir/", kind=tarfile.DIRTYPE, uname="root", gname="staff", gid=50),
            member("./dir/big", noise, uid=3_000_000),
            member("./dir/exact", noise[: 4 * MIB]),
            member("./dir/twice", b"replaced, and not to be seen"),
            member("./dir/empty"),
            member("./dir/twice", b"the last one counts"),
            member("./dir/changes", noise[: 5 * MIB]),
            member("./dir/changes/", kind=tarfile.DIRTYPE),
            member("./dir/changes/below", b"below"),
            member("./dir/link", kind=tarfile.SYMTYPE, linkname="big"),
            member("./dir/hard", kind=tarfile.LNKTYPE, linkname="./dir/big"),
            member("./dir/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
            member("./dir/disk", kind=tarfile.BLKTYPE, devmajor=259, devminor=1_000_000),
            member("./dir/pipe", kind=tarfile.FIFOTYPE),
            member("./dir/.wh.gone"),
            member("./dir/attrs", b"x", pax_headers={"SCHILY.xattr.user.k": "value", "mtime": "1700000000.75"}),
            member("./dir/" + "n" * 240, b"long", uname="root"),
            member('./dir/größe \u20ac \\ " \n', b"named", mtime=0),
            member("./escaped/../normal//path", b"cleaned"),
        ]
    )
