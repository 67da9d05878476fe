"""Differences from a real kernel with devices: the second table of docs/divergences.md, row by row."""

from __future__ import annotations

import subprocess

import pytest

from tests.emulator.machine.conftest import PLAIN_USER, RunDevices, as_plain_user, environment, luoemu, python


def test_device_nodes_are_regular_files(run_devices: RunDevices) -> None:
    source = """
        import stat
        for path in (take(), "/dev/vfio/1", "/dev/vfio/vfio", "/dev/iommu"):
            first, second = os.stat(path), os.stat(path)
            assert stat.S_ISREG(first.st_mode) and first.st_rdev == 0 and first.st_size > 0
            assert first.st_ino != second.st_ino
        assert os.readlink("/dev/iommu") == "vfio/.iommu"
        assert errno_of(os.open, "/dev/iommu", os.O_RDWR | os.O_NOFOLLOW) == errno.ELOOP
    """
    run_devices(source)


def test_handed_out_device_is_a_regular_file(run_devices: RunDevices) -> None:
    source = """
        import stat
        take()
        group, container = open_type1()
        file = device_of(group)
        assert os.readlink(f"/proc/self/fd/{file}") == "/anon_inode:[vfio-device]"
        assert stat.S_ISREG(os.fstat(file).st_mode)
    """
    run_devices(source)


def test_device_has_a_position_and_no_path_in_sysfs(run_devices: RunDevices) -> None:
    source = """
        file = os.open(take(), os.O_RDWR)
        assert os.lseek(file, 100, os.SEEK_SET) == 100
        assert "vfio-device-syspath" not in Path(f"/proc/self/fdinfo/{file}").read_text()
    """
    run_devices(source)


def test_device_with_epoll(run_devices: RunDevices) -> None:
    source = """
        import select
        files = [os.open(path, os.O_RDWR) for path in (take(), "/dev/vfio/1", "/dev/vfio/vfio", "/dev/iommu")]
        with select.epoll() as epoll:
            for file in files:
                epoll.register(file, select.EPOLLIN)
            assert sorted(epoll.poll(0)) == [(file, select.EPOLLIN) for file in files]
    """
    run_devices(source)


@pytest.mark.usefixtures("mapping")
def test_mapping_is_never_refused(run_devices: RunDevices) -> None:
    source = """
        file = os.open(take(), os.O_RDWR)
        assert mmap.mmap(file, 4096)[:4] == b"LUOD"
        beyond = mmap.mmap(file, 4096, offset=5 << 40)
        if (child := os.fork()) == 0:
            beyond[0]
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGBUS
    """
    run_devices(source)


@pytest.mark.usefixtures("mapping")
def test_mapping_outlives_the_freeze(run_devices: RunDevices) -> None:
    source = """
        other = "0000:02:00.0"
        take(); take(other)
        file, loud, context = open_device(), open_device(other), open_iommufd()
        bind(file, context); bind(loud, context)
        bar = mmap.mmap(file, 4096)
        session = create(device(), b"s")
        preserve(session, file, 1); preserve(session, loud, 2)
        listen(loud, [os.eventfd(0)])
        assert errno_of(jump) == errno.EINVAL
        assert errno_of(get_info, file) == errno.EIO
        assert bar[:4] == b"LUOD"
    """
    run_devices(source, "--vfio", "0000:01:00.0", "--vfio", "0000:02:00.0", "--vfio-rules", "v5")


@pytest.mark.usefixtures("mapping")
def test_mapping_reads_with_memory_off(run_devices: RunDevices) -> None:
    source = """
        file = os.open(take(), os.O_RDWR)
        bind(file, open_iommufd())
        bar = mmap.mmap(file, 4096)
        for register, value in ((0x04, 0), (0x44, 3)):
            os.pwrite(file, struct.pack("<H", value), CONFIG + register)
            assert errno_of(os.pread, file, 4, 0) == errno.EIO
            assert bar[:4] == b"LUOD"
            bar[SCRATCH] = value + 1
            assert bar[SCRATCH] == value + 1
            os.pwrite(file, struct.pack("<H", 2), CONFIG + 0x04)
    """
    run_devices(source)


@pytest.mark.usefixtures("mapping")
def test_mapping_does_not_keep_the_file_open(run_devices: RunDevices) -> None:
    source = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        file = os.open(take(), os.O_RDWR)
        bind(file, open_iommufd())
        bar = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        os.close(file)
        second = open_device()
        bind(second, open_iommufd())
        os.close(second)
        sysfs(DEVICE, "remove").write_text("1")
        assert ctypes.string_at(bar, 4) == b"LUOD"
    """
    run_devices(source)


def test_no_mapping_for_a_plain_user() -> None:
    source = """
        from raw_vfio import *
        file = os.open(take(), os.O_RDWR)
        bind(file, open_iommufd())
        assert region(file, 0)[0] == vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
        assert errno_of(mmap.mmap, file, 4096) == errno.ENODEV
    """
    command = as_plain_user(*luoemu("--vfio", "0000:01:00.0", user=PLAIN_USER), *python(source, PLAIN_USER))
    done = subprocess.run(command, env=environment(PLAIN_USER), cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_memory_by_address_is_not_pinned(run_devices: RunDevices) -> None:
    source = """
        import ctypes
        file = os.open(take(), os.O_RDWR)
        context, space = attached(file)
        memory = os.memfd_create("guest")
        os.ftruncate(memory, MEMORY)
        shared = mmap.mmap(memory, MEMORY)
        holder = ctypes.c_char.from_buffer(shared)
        map_memory(context, space, ctypes.addressof(holder), MEMORY)
        map_file(context, space, memory, iova=1 << 30)
        command(file, FILL, 0, 0, 8, 7)
        del holder
        shared.close()
        def fill(address):
            os.pwrite(file, program(0, address, 8, 9), SOURCE)
            os.pwrite(file, struct.pack("<I", FILL), DOORBELL)
            return os.pread(file, 1, STATUS)[0]
        assert fill(MAPPED_AT) == 2 and os.pread(memory, 8, 0) == b"\\x07" * 8
        assert fill(1 << 30) == 1 and os.pread(memory, 8, 0) == b"\\x09" * 8
    """
    run_devices(source)


def test_memory_by_file_is_not_pinned(run_devices: RunDevices) -> None:
    source = """
        from luod.uapi.memfd import MFD_HUGETLB, F_ADD_SEALS, F_SEAL_FUTURE_WRITE, F_SEAL_WRITE
        file = os.open(take(), os.O_RDWR)
        context, space = attached(file)
        def memory(place, size=4096, flags=0):
            made = os.memfd_create("guest", os.MFD_ALLOW_SEALING | flags)
            os.ftruncate(made, size)
            map_file(context, space, made, size, place << 30)
            return made
        def status(number, place):
            os.pwrite(file, program(place << 30, place << 30, 8, 9), SOURCE)
            os.pwrite(file, struct.pack("<I", number), DOORBELL)
            return os.pread(file, 1, STATUS)[0]
        short, written, future, huge = memory(0), memory(1), memory(2), memory(3, 2 << 20, MFD_HUGETLB)
        os.ftruncate(short, 0)
        fcntl.fcntl(written, F_ADD_SEALS, F_SEAL_WRITE)
        fcntl.fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
        assert [status(FILL, place) for place in range(4)] == [2, 2, 2, 2]
        assert os.fstat(short).st_size == 0
    """
    run_devices(source)


def test_reopened_context_is_taken_for_the_first(run_devices: RunDevices) -> None:
    source = """
        file, first = os.open(take(), os.O_RDWR), open_iommufd()
        second = os.open(f"/proc/self/fd/{first}", os.O_RDWR)
        assert [ioas(first), ioas(first), ioas(second)] == [1, 2, 1]
        bind(file, second)
        attach(file, 2)
    """
    run_devices(source)


def test_sys_shows_emulated_devices_only(run_devices: RunDevices) -> None:
    source = """
        assert os.listdir("/sys/kernel/iommu_groups") == ["1"]
        real = {name for name in os.listdir("/sys/devices/pci0000:00") if name.startswith("0000:")}
        assert real == {"0000:00:01.0"} and len(os.listdir("/sys/bus/pci/devices")) == 2
        uevents = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
        uevents.bind((0, 1))
        uevents.setblocking(False)
        take()
        sent = b""  # the host's kernel may send some of other machines, such as of the bdi of a FUSE mount
        while errno_of(uevents.recv, 4096, socket.MSG_PEEK) == 0:
            sent += uevents.recv(4096)
        assert b"0000:01:00.0" not in sent and b"vfio" not in sent, sent
    """
    run_devices(source)


def test_what_a_device_has_not(run_devices: RunDevices) -> None:
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        bind(file, context)
        assert region(file, vfio.VFIO_PCI_ROM_REGION_INDEX)[1] == 0
        assert errno_of(region, file, vfio.VFIO_PCI_VGA_REGION_INDEX) == errno.EINVAL
        for number in (1, 2, *range(6, 12)):
            probe = vfio.VFIO_DEVICE_FEATURE_PROBE | number
            assert errno_of(call, file, vfio.VFIO_DEVICE_FEATURE, vfio.DEVICE_FEATURE, probe) == errno.ENOTTY
        listen(file, [os.eventfd(0)], vfio.VFIO_PCI_INTX_IRQ_INDEX)
        data = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_UNMASK
        unmask = vfio.IRQ_SET.pack(vfio.IRQ_SET.size + 4, data, vfio.VFIO_PCI_INTX_IRQ_INDEX, 0, 1)
        unmask += struct.pack("=i", os.eventfd(0))
        assert errno_of(fcntl.ioctl, file, vfio.VFIO_DEVICE_SET_IRQS, unmask) == errno.ENOTTY
    """
    run_devices(source)


def test_device_access_without_bytes(run_devices: RunDevices) -> None:
    source = """
        file = os.open(take(), os.O_RDWR)
        assert errno_of(os.pread, file, 1, 0) == errno.EINVAL, "the file is not bound"
        assert os.pread(file, 0, 0) == b""
        assert os.pwrite(file, b"", 0) == 0
    """
    run_devices(source)


def test_what_the_iommu_has_not(run_devices: RunDevices) -> None:
    source = """
        from luod.uapi import iommufd
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        number = bind(file, context)
        space = ioas(context)
        def allocate(flags):
            call(context, iommufd.IOMMU_HWPT_ALLOC, iommufd.HWPT_ALLOC, flags, number, space, 0, 0, 0, 0, 0, 0, 0)
        allocate(0)
        for nest_parent, dirty_tracking in ((1, 0), (0, 2)):
            assert errno_of(allocate, nest_parent | dirty_tracking) == errno.EOPNOTSUPP
        info = call(context, iommufd.IOMMU_GET_HW_INFO, iommufd.HW_INFO, 0, number, 0, 0, 0, 0, bytes(3), 0)
        assert info[5] == iommufd.IOMMU_HW_INFO_TYPE_NONE
    """
    run_devices(source)


def test_an_address_space_takes_65536_mappings_and_ranges(run_devices: RunDevices) -> None:
    source = """
        from array import array
        from luod.uapi import iommufd
        many, context = 1 << 16, open_iommufd()
        space = ioas(context)
        ranges = array("Q", range(2 * many + 2))
        def allow(count):
            address = ranges.buffer_info()[0]
            call(context, iommufd.IOMMU_IOAS_ALLOW_IOVAS, iommufd.IOAS_ALLOW_IOVAS, space, count, 0, address)
        allow(many)
        assert errno_of(allow, many + 1) == errno.ENOMEM
        def copy(length):
            copied = iommufd.IOMMU_IOAS_MAP_FIXED_IOVA | iommufd.IOMMU_IOAS_MAP_READABLE
            call(context, iommufd.IOMMU_IOAS_COPY, iommufd.IOAS_COPY, copied, space, space, length, length, 0)
        map_memory(context, space, 0, 4096, iova=0)
        for doublings in range(16):
            copy(4096 << doublings)
        assert errno_of(copy, 4096 << 16) == errno.ENOMEM
    """
    run_devices(source)


def test_type1_has_no_dirty_tracking_and_no_change_of_addresses(run_devices: RunDevices) -> None:
    source = """
        take()
        group, container = open_type1()
        assert fcntl.ioctl(container, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_UPDATE_VADDR) == 0
        assert errno_of(fcntl.ioctl, container, vfio.VFIO_IOMMU_DIRTY_PAGES, bytes(8)) == errno.ENOTTY
        unmap = vfio.IOMMU_TYPE1_DMA_UNMAP
        for flag in (vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, vfio.VFIO_DMA_UNMAP_FLAG_VADDR):
            request = unmap.pack(unmap.size, flag, 0, 4096)
            assert errno_of(fcntl.ioctl, container, vfio.VFIO_IOMMU_UNMAP_DMA, request) == errno.EINVAL
    """
    run_devices(source)


def test_virtual_functions_are_there_from_the_start(run_devices: RunDevices) -> None:
    source = """
        if BOOT == 1:
            take()
            sysfs(DEVICE, "sriov_numvfs").write_text("0")
            assert not sysfs(DEVICE, "virtfn0").exists()
            sysfs(DEVICE, "sriov_numvfs").write_text("1")
            sysfs(DEVICE, "sriov_numvfs").write_text("0")
            jump()
        assert sysfs(DEVICE, "sriov_numvfs").read_text() == "1\\n"
    """
    run_devices(source, "--vfio", "0000:01:00.0", "--vfio", "0000:01:00.1,vf-of=0000:01:00.0")
