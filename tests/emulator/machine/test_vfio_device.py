"""Device files as a VMM uses them: opened, bound, mapped, told to do something; by processes of a real machine."""

from __future__ import annotations

import os
import resource
import subprocess
import textwrap
from collections.abc import Callable

import pytest

from luod.testing.tools import for_root
from tests.emulator.machine.conftest import PLAIN_USER, RunDevices, as_plain_user, environment, luoemu, python, steps

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_what_the_vmm_of_the_document_does(run_devices: RunDevices) -> None:
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        assert errno_of(get_info, file) == errno.EINVAL
        assert bind(file, context) > 0
        assert errno_of(bind, file, context) == errno.EINVAL
        _, flags, regions, irqs, _, _ = get_info(file)
        assert flags & vfio.VFIO_DEVICE_FLAGS_PCI and (regions, irqs) == (9, 5)
        space = ioas(context)
        attach(file, space)
        memory = os.memfd_create("guest")
        os.ftruncate(memory, MEMORY)
        map_file(context, space, memory)
        become_master(file)
        assert compute(file, memory, bytes(range(100))) == sum(range(100))
        os.close(context)
        assert compute(file, memory, b"\\x01" * 7) == 7, "the device keeps its context"
    """
    run_devices(source)


def test_a_device_reads_and_writes_memory_of_the_process(run_devices: RunDevices) -> None:
    source = """
        import ctypes
        file = os.open(take(), os.O_RDWR)
        context, space = attached(file)
        private = mmap.mmap(-1, MEMORY, flags=mmap.MAP_PRIVATE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(private))
        map_memory(context, space, address, MEMORY)
        private[0:4] = b"\\x01\\x02\\x03\\x04"
        command(file, SUM, 0, 8192, 4)
        assert private[8192] == 10
        assert errno_of(map_memory, context, space, 4096, 4096, 1 << 30) == errno.EFAULT
        libc = ctypes.CDLL(None)
        libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        assert libc.mprotect(address, MEMORY, mmap.PROT_READ) == 0
        assert errno_of(map_memory, context, space, address, MEMORY, 1 << 30) == errno.EFAULT
    """
    run_devices(source)


def test_a_device_does_not_read_what_is_mapped_for_writes_only(run_devices: RunDevices) -> None:
    source = """
        import ctypes
        file = os.open(take(), os.O_RDWR)
        context, space = attached(file)
        private = mmap.mmap(-1, MEMORY, flags=mmap.MAP_PRIVATE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(private))
        from luod.uapi import iommufd as api
        flags = api.IOMMU_IOAS_MAP_FIXED_IOVA | api.IOMMU_IOAS_MAP_WRITEABLE
        call(context, api.IOMMU_IOAS_MAP, api.IOAS_MAP, flags, space, 0, address, MEMORY, MAPPED_AT)
        private[0:4] = b"\\x01\\x02\\x03\\x04"
        command(file, FILL, 0, 8192, 4, 7)
        assert private[8192:8196] == b"\\x07" * 4
        os.pwrite(file, program(MAPPED_AT, MAPPED_AT + 8192, 4), SOURCE)
        os.pwrite(file, struct.pack("<I", SUM), DOORBELL)
        assert struct.unpack("<I", os.pread(file, 4, STATUS)) == (2,), "a DMA fault"
        assert private[8192:8196] == b"\\x07" * 4
    """
    run_devices(source)


def test_a_structure_whose_end_is_not_there(run_devices: RunDevices) -> None:
    source = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        libc.ioctl.argtypes = ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p
        area = mmap.mmap(-1, 8192)
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        there = 13  # of 20 bytes, where IOAS_ALLOC has 12
        area[4096 - there : 4096] = struct.pack("<IIIII", 20, 0, 0, 0, 0)[:there]
        assert libc.mprotect(address + 4096, 4096, 0) == 0
        assert libc.ioctl(open_iommufd(), 0x3B81, address + 4096 - there) == -1
        assert ctypes.get_errno() == errno.EFAULT
    """
    run_devices(source)


def test_a_fault_queue_without_a_fault_is_not_readable(run_devices: RunDevices) -> None:
    source = """
        import select
        from luod.uapi import iommufd as api
        faults = call(open_iommufd(), api.IOMMU_FAULT_QUEUE_ALLOC, api.FAULT_ALLOC, 0, 0, 0)[3]
        assert select.select([faults], [faults], [], 0) == ([], [faults], [])
        with select.epoll() as epoll:
            epoll.register(faults, select.EPOLLIN)
            assert epoll.poll(0) == []
            epoll.modify(faults, select.EPOLLIN | select.EPOLLOUT | select.EPOLLWRNORM)
            assert epoll.poll(0) == [(faults, select.EPOLLOUT)]
    """
    run_devices(source)


def test_a_fault_queue_is_a_file_of_its_own(run_devices: RunDevices) -> None:
    source = """
        context = open_iommufd()
        from luod.uapi import iommufd as api
        _, _, queue, fd = call(context, api.IOMMU_FAULT_QUEUE_ALLOC, api.FAULT_ALLOC, 0, 0, 0)
        assert os.read(fd, 40) == b"" and errno_of(os.write, fd, bytes(8)) == errno.EINVAL
        assert not os.get_inheritable(fd)
        assert errno_of(call, context, api.IOMMU_DESTROY, api.DESTROY, queue) == errno.EBUSY
        os.close(fd)
        call(context, api.IOMMU_DESTROY, api.DESTROY, queue)
    """
    run_devices(source)


@pytest.mark.usefixtures("mapping")
def test_a_mapped_bar_is_no_memory_to_iommufd_and_some_to_type1(run_devices: RunDevices) -> None:
    source = """
        import ctypes
        take()
        group, container = open_type1()
        file = device_of(group)
        bar = mmap.mmap(file, 16384)
        address = ctypes.addressof(ctypes.c_char.from_buffer(bar))
        layout = vfio.IOMMU_TYPE1_DMA_MAP
        fcntl.ioctl(container, vfio.VFIO_IOMMU_MAP_DMA, layout.pack(layout.size, 3, address, MAPPED_AT, 16384))
        context, space = attached(os.open(take("0000:02:00.0"), os.O_RDWR))
        assert errno_of(map_memory, context, space, address, 16384) == errno.EFAULT
        around = mmap.mmap(-1, 16384)
        map_memory(context, space, ctypes.addressof(ctypes.c_char.from_buffer(around)), 16384)
    """
    run_devices(source, "--vfio", "0000:01:00.0", "--vfio", "0000:02:00.0")


def test_memory_of_a_process_that_ended(run_devices: RunDevices) -> None:
    source = """
        import ctypes
        file = os.open(take(), os.O_RDWR)
        context, space = attached(file)
        if (child := os.fork()) == 0:
            private = mmap.mmap(-1, MEMORY, flags=mmap.MAP_PRIVATE)
            map_memory(context, space, ctypes.addressof(ctypes.c_char.from_buffer(private)), MEMORY)
            command(file, FILL, 0, 0, 4096, 7)
            os._exit(private[4095])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        os.pwrite(file, program(MAPPED_AT, MAPPED_AT, 8), SOURCE)
        os.pwrite(file, struct.pack("<I", FILL), DOORBELL)
        assert os.pread(file, 4, STATUS) == struct.pack("<I", 2)
    """
    run_devices(source)


def test_the_configuration_space_takes_only_what_hardware_takes(run_devices: RunDevices) -> None:
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        assert errno_of(os.pread, file, 4, CONFIG) == errno.EINVAL
        bind(file, context)
        assert region(file, 7) == (3, 4096, CONFIG)
        assert os.pread(file, 4, CONFIG) == bytes.fromhex("8680f010")
        assert os.pwrite(file, b"\\xff\\xff\\xff\\xff", CONFIG) == 4
        assert os.pread(file, 4, CONFIG) == bytes.fromhex("8680f010")
        os.pwrite(file, b"\\xff\\xff\\xff\\xff", CONFIG + 0x10)
        assert os.pread(file, 4, CONFIG + 0x10) == struct.pack("<I", 0xffffffff & ~0x3fff)
        become_master(file)
        assert sysfs(DEVICE, "config").read_bytes()[4:6] == b"\\x06\\x00"
        assert len(os.pread(file, 4096, CONFIG)) == 4096
        assert errno_of(os.pread, file, 4, 9 << 40) == errno.EINVAL
    """
    run_devices(source, "--vfio", "0000:01:00.0,vendor=0x8086")


def test_registers_are_read_written_and_reset_by_the_file(run_devices: RunDevices) -> None:
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        bind(file, context)
        assert os.pread(file, 4, IDENTITY) == b"LUOD"
        os.pwrite(file, b"\\0" * 4, IDENTITY + SCRATCH)
        os.pwrite(file, struct.pack("<I", INTERRUPT), DOORBELL)
        assert os.pread(file, 8, STATUS) == struct.pack("<II", 1, 0)
        os.pwrite(file, b"scratchy", SCRATCH)
        fcntl.ioctl(file, vfio.VFIO_DEVICE_RESET)
        assert os.pread(file, 8, SCRATCH) == bytes(8)
        assert len(os.pread(file, 8192, 16384 - 100)) == 100
        assert errno_of(os.pread, file, 1, 16384) == errno.EINVAL
        assert errno_of(os.ftruncate, file, 0) == errno.EINVAL
    """
    run_devices(source)


@pytest.mark.usefixtures("mapping")
def test_registers_work_through_a_mapping(run_devices: RunDevices) -> None:
    source = """
        file = os.open(take(), os.O_RDWR)
        memory, heard = os.memfd_create("guest"), os.eventfd(0)
        os.ftruncate(memory, MEMORY)
        context = set_up(file, memory)
        listen(file, [-1, heard])
        assert region(file, 0)[0] & vfio.VFIO_REGION_INFO_FLAG_MMAP
        bar, guest = mmap.mmap(file, 16384, offset=region(file, 0)[2]), mmap.mmap(memory, MEMORY)
        assert bar[:4] == b"LUOD"
        guest[:5] = b"\\x01\\x02\\x03\\x04\\x05"
        bar[VECTOR:VECTOR + 4] = struct.pack("<I", 2)
        bar[SOURCE:SOURCE + 32] = program(MAPPED_AT, MAPPED_AT + 4096, 5)
        for turn in range(1, 4):
            bar[DOORBELL:DOORBELL + 4] = struct.pack("<I", SUM)
            assert os.eventfd_read(heard) == 1
            assert bar[COUNT] == turn
            assert guest[4096] == 15 * turn
        os.pwrite(file, b"by write", SCRATCH)
        assert bar[SCRATCH:SCRATCH + 8] == b"by write"
        bar[SCRATCH:SCRATCH + 8] = b"by store"
        assert os.pread(file, 8, SCRATCH) == b"by store"
    """
    run_devices(source)


@pytest.mark.usefixtures("mapping")
def test_each_bar_has_memory_of_its_own(run_devices: RunDevices) -> None:
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        bind(file, context)
        for index, size in enumerate((16384, 4096, 1 << 20)):
            flags, length, offset = region(file, index)
            assert (flags & 7, length) == (7, size)
            with mmap.mmap(file, size, offset=offset) as bar:
                bar[size - 8:size] = b"BAR no %d" % index
            assert os.pread(file, 8, offset + size - 8) == b"BAR no %d" % index
        assert region(file, 3)[1] == 0
    """
    run_devices(source, "--vfio", "0000:01:00.0,bars=16K+4K+1M")


def test_an_interrupt_reaches_its_eventfd(run_devices: RunDevices) -> None:
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        bind(file, context)
        become_master(file)
        eventfds = [os.eventfd(0) for _ in range(4)]
        pipe, _ = os.pipe()
        assert errno_of(listen, file, [pipe]) == errno.EINVAL
        assert errno_of(listen, file, [999]) == errno.EBADF
        assert errno_of(listen, file, [file]) == errno.EINVAL
        listen(file, eventfds)
        for fd in eventfds[1:]: os.close(fd)
        os.pwrite(file, struct.pack("<I", 1), VECTOR)
        os.pwrite(file, struct.pack("<I", INTERRUPT), DOORBELL)
        assert os.eventfd_read(eventfds[0]) == 1
        full = (1 << 64) - 2
        os.eventfd_write(eventfds[0], full)
        os.pwrite(file, struct.pack("<I", INTERRUPT), DOORBELL)
        assert os.eventfd_read(eventfds[0]) == full
        listen(file, [])
    """
    run_devices(source)


def test_group_and_container(run_devices: RunDevices) -> None:
    source = """
        take()
        group, container = os.open("/dev/vfio/7", os.O_RDWR), os.open("/dev/vfio/vfio", os.O_RDWR)
        assert errno_of(os.open, "/dev/vfio/7", os.O_RDWR) == errno.EBUSY
        assert fcntl.ioctl(container, vfio.VFIO_GET_API_VERSION) == 0
        assert fcntl.ioctl(container, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_TYPE1v2_IOMMU) == 1
        get_device = lambda name: fcntl.ioctl(group, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(name + b"\\0"))
        assert errno_of(get_device, DEVICE.encode()) == errno.EINVAL
        fcntl.ioctl(group, vfio.VFIO_GROUP_SET_CONTAINER, struct.pack("i", container))
        fcntl.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
        assert errno_of(get_device, b"0000:09:00.0") == errno.ENODEV
        file = get_device(DEVICE.encode())
        assert file > container
        assert os.readlink(f"/proc/self/fd/{file}").endswith("anon_inode:[vfio-device]")
        assert get_info(file)[2:4] == (9, 5)
        assert errno_of(bind, file, container) == errno.EINVAL
        memory = mmap.mmap(-1, MEMORY)
        import ctypes
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        call(container, vfio.VFIO_IOMMU_MAP_DMA, vfio.IOMMU_TYPE1_DMA_MAP, 3, address, MAPPED_AT, MEMORY)
        become_master(file)
        command(file, FILL, 0, 0, 100, 9)
        assert memory[:101] == b"\\x09" * 100 + b"\\0"
        second = get_device(DEVICE.encode())
        os.pwrite(file, b"scratchy", SCRATCH)
        assert os.pread(second, 8, SCRATCH) == b"scratchy"
        assert errno_of(bind, open_device(), open_iommufd()) == errno.EBUSY
        assert errno_of(os.open, f"/proc/self/fd/{file}", os.O_RDWR) == errno.ENXIO
        for fd in (group, container, file): os.close(fd)
        assert errno_of(os.open, "/dev/vfio/7", os.O_RDWR) == errno.EBUSY
        os.close(second)
        os.close(os.open("/dev/vfio/7", os.O_RDWR))
    """
    run_devices(source, "--vfio", "0000:01:00.0,group=7")


def test_descriptor_limit_of_get_device_fd(run_devices: RunDevices) -> None:
    source = """
        import resource
        take()
        group, container = open_type1()
        resource.setrlimit(resource.RLIMIT_NOFILE, (container + 1, container + 1))
        get_device = lambda: device_of(group)
        assert errno_of(get_device) == errno.EMFILE
        os.close(container)
        file = get_device()
        os.close(file)
    """
    run_devices(source)


def test_contexts_are_told_apart(run_devices: RunDevices) -> None:
    """Each open of /dev/iommu is another one, by whichever path and in however many processes."""
    source = """
        first, second = os.open(take(), os.O_RDWR), os.open(take("0000:02:00.0"), os.O_RDWR)
        contexts = [os.open("/dev/iommu", os.O_RDWR) for _ in range(30)]
        os.symlink("/dev/iommu", "/run/iommu")
        contexts.append(os.open("/run/iommu", os.O_RDWR))
        assert len({os.fstat(fd).st_ino for fd in contexts}) == 31
        spaces = [[ioas(fd) for _ in range(number)] for number, fd in enumerate(contexts)]
        bind(first, contexts[20])
        bind(second, contexts[10])
        attach(first, spaces[20][19])
        assert errno_of(attach, second, spaces[20][19]) == errno.ENOENT
        attach(second, spaces[10][9])
        assert errno_of(bind, open_device(), contexts[3]) == errno.EINVAL
        assert errno_of(bind, open_device(), first) == errno.EBADFD
        assert errno_of(bind, open_device(), 999) == errno.EBADF
        assert errno_of(bind, open_device(), os.open("/dev/iommu", os.O_PATH)) == errno.EBADF
        assert errno_of(bind, open_device(), os.open("/sys/bus/pci/drivers_probe", os.O_WRONLY)) == errno.EBADFD
    """
    run_devices(source, "--vfio", "0000:01:00.0", "--vfio", "0000:02:00.0")


def test_the_last_close_wherever_it_is(run_devices: RunDevices) -> None:
    """Passed over a socket, inherited by a child that is killed: a binding ends with the last fd."""
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        bind(file, context)
        ours, theirs = socket.socketpair()
        if (child := os.fork()) == 0:
            signal.pause()
        socket.send_fds(ours, [b"x"], [file])
        os.close(file)
        again = open_device()
        assert errno_of(bind, again, context) == errno.EINVAL
        os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
        assert errno_of(bind, again, context) == errno.EINVAL
        theirs.close(); ours.close()
        for _ in range(60):
            bind(again, context)
            os.close(again)
            again = open_device()
    """
    run_devices(source)


def test_permissions_can_be_changed(run_devices: RunDevices) -> None:
    for_root("for several users in one machine")
    source = """
        path = take()
        assert [oct(os.stat(name).st_mode) for name in (path, "/dev/vfio/vfio", "/dev/iommu", "/dev/vfio/1")] == [
            "0o100600", "0o100666", "0o100660", "0o100600"]
        os.chmod(path, 0o640); os.chown(path, 0, 1000)
        if (child := os.fork()) == 0:
            os.setgroups([]); os.setgid(1000); os.setuid(1000)
            assert errno_of(os.open, path, os.O_RDWR) == errno.EACCES
            os.open(path, os.O_RDONLY)
            assert errno_of(os.open, "/dev/iommu", os.O_RDWR) == errno.EACCES
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert errno_of(os.open, "/dev/vfio/new", os.O_RDWR | os.O_CREAT) == errno.EACCES
        assert errno_of(os.mkdir, "/dev/vfio/new") == errno.EPERM
        assert errno_of(os.unlink, path) == errno.EPERM
        assert errno_of(os.open, "/dev/vfio/9", os.O_RDWR) == errno.ENOENT
    """
    run_devices(source)


def test_device_files_where_other_files_are_meant(run_devices: RunDevices) -> None:
    """The supervisor must not ask its own file systems anything: it would wait for itself."""
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        bind(file, context)
        attribute = os.open("/sys/bus/pci/drivers_probe", os.O_WRONLY)
        directory = os.open("/dev/vfio", os.O_RDONLY)
        session = create(device(), b"s")
        for fd in (attribute, directory, context):
            assert errno_of(preserve, session, fd, 1) == errno.ENOENT
            assert errno_of(raw.syscall, "kexec_file_load", fd, -1, 1, b"\\0", 4) != 0
            assert errno_of(listen, file, [fd]) == errno.EINVAL
        space = ioas(context)
        # The file's kind matters once there is a page table.
        assert errno_of(map_file, context, space, file) == 0
        assert errno_of(get_name, file) in (errno.ENOTTY, errno.EINVAL)
    """
    run_devices(source)


def test_threads_use_devices_at_the_same_time(run_devices: RunDevices) -> None:
    source = """
        files = [os.open(take(f"0000:0{number}:00.0"), os.O_RDWR) for number in range(1, 5)]
        def work(file):
            context = open_iommufd()
            bind(file, context)
            for turn in range(80):
                os.pwrite(file, struct.pack("<Q", turn), SCRATCH)
                assert os.pread(file, 8, SCRATCH) == struct.pack("<Q", turn)
                assert get_info(file)[2] == 9
            done.append(context)
        done = []
        threads = [threading.Thread(target=work, args=(file,)) for file in files]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert len(done) == 4
    """
    run_devices(source, *[word for number in range(1, 5) for word in ("--vfio", f"0000:0{number}:00.0")])


def test_plain_users_machine() -> None:
    """Everything but mapping, which the region says."""
    source = """
        from raw_vfio import *
        take()
        memory = os.memfd_create("guest")
        os.ftruncate(memory, MEMORY)
        fd = device()
        if BOOT == 1:
            file = open_device()
            other = open_iommufd()
        else:
            session = retrieve_session(fd, b"s")
            file = retrieve(session, 1)
            assert errno_of(open_device) == errno.EBUSY
        context = set_up(file, memory)
        assert compute(file, memory, b"\\x02" * 50) == 100
        assert not region(file, 0)[0] & vfio.VFIO_REGION_INFO_FLAG_MMAP
        assert errno_of(mmap.mmap, file, 4096) == errno.ENODEV
        if BOOT == 1:
            preserve(create(fd, b"s"), file, 1)
            jump()
        finish(session)
        print("carried")
    """
    command = as_plain_user(*luoemu("--vfio", "0000:01:00.0", user=PLAIN_USER), *python(source, PLAIN_USER))
    done = subprocess.run(command, env=environment(PLAIN_USER), cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "carried\n", "")


def test_a_process_without_the_capability_locks_no_more_than_its_limit(run_devices: RunDevices) -> None:
    source = """
        import ctypes, resource
        file = os.open(take(), os.O_RDWR)
        context, space = attached(file)
        pages = mmap.mmap(-1, 64 << 20)
        start, step = ctypes.addressof(ctypes.c_char.from_buffer(pages)), 4 << 20
        map_memory(context, space, start, 64 << 20)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (2 * step, 2 * step))
        os.setresuid(1000, 1000, 1000)
        assert errno_of(map_memory, context, space, start, 64 << 20, 1 << 32) == errno.ENOMEM
        map_memory(context, space, start, step, 1 << 32)
        map_memory(context, space, start, step, (1 << 32) + step)
        assert errno_of(map_memory, context, space, start, 4096, 1 << 33) == errno.ENOMEM
        unmap = iommufd.IOAS_UNMAP
        assert call(context, iommufd.IOMMU_IOAS_UNMAP, unmap, space, 1 << 32, step)[3] == step
        map_memory(context, space, start, step, 1 << 33)
    """
    run_devices(source)


@pytest.mark.usefixtures("devices_work")
def test_any_number_of_mappings_takes_a_few_files_of_the_supervisor() -> None:
    source = """
        from raw_vfio import *
        import ctypes
        context, memory = open_iommufd(), os.memfd_create("guest")
        space, place = ioas(context), ctypes.create_string_buffer(8)
        os.ftruncate(memory, 4096)
        tell()
        for index in range(500):
            map_memory(context, space, ctypes.addressof(place), 1, 2 * index)
            map_file(context, space, memory, 1, 2 * index + 1)
        tell()
    """
    machine = steps(TOLD + textwrap.dedent(source), "--vfio", "0000:01:00.0", lines=["told"] * 2)
    before = open_files(next(machine))
    assert open_files(next(machine)) <= before + 2
    assert next(machine, None) is None


@pytest.mark.usefixtures("devices_work")
def test_a_supervisor_without_a_free_fd_fails_calls_and_goes_on() -> None:
    source = """
        from raw_vfio import *
        import ctypes
        other = "0000:02:00.0"
        take()
        take(other)
        group, container = open_type1()
        held, asked = open_device(other), os.eventfd(0)
        context, place = open_iommufd(), ctypes.create_string_buffer(8)
        space = ioas(context)
        bind(held, context)
        listen(held, [asked], vfio.VFIO_PCI_REQ_IRQ_INDEX)
        unbind = threading.Thread(target=sysfs(other, "driver/unbind").write_text, args=(other,), daemon=True)
        unbind.start()
        os.eventfd_read(asked)
        load()
        tell()
        assert errno_of(map_memory, context, space, ctypes.addressof(place), 1) == errno.ENFILE
        assert errno_of(device_of, group) == errno.ENFILE
        assert errno_of(raw.reboot, raw.kexec_uapi.LINUX_REBOOT_CMD_KEXEC) == errno.ENFILE
        for _ in range(10000):  # longer than the interval at which the supervisor looks whether init ends
            assert errno_of(get_info, held) == 0
        assert unbind.is_alive()
        tell()
        map_memory(context, space, ctypes.addressof(place), 1)
        file = device_of(group)
        assert get_info(file)[2] == 9
        assert os.readlink(f"/proc/self/fd/{file}") == "/anon_inode:[vfio-device]"
        os.close(held)
        unbind.join()
        tell()
    """
    options = ("--vfio", "0000:01:00.0", "--vfio", "0000:02:00.0")
    machine = steps(TOLD + textwrap.dedent(source), *options, lines=["told"] * 3)
    pid = next(machine)
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = set(os.listdir(f"/proc/{pid}/fd"))
    free = next(number for number in range(len(used) + 1) if str(number) not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, limit[1]))
    next(machine)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    next(machine)
    assert next(machine, None) is None


TOLD = """
def tell():
    print("told", flush=True)
    sys.stdin.readline()
"""


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_huge_structure_keeps_only_its_caller_waiting(run_devices: RunDevices) -> None:
    source = """
        import ctypes
        SIZE = 1 << 28
        context, other = open_iommufd(), open_iommufd()
        big = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
        big[:iommufd.IOAS_ALLOC.size] = iommufd.IOAS_ALLOC.pack(SIZE, 0, 0)
        argument = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(big)))
        # fcntl.ioctl would keep other threads waiting.
        ioctl = ctypes.CDLL(None).ioctl
        caller = threading.Thread(target=ioctl, args=(context, ctypes.c_ulong(iommufd.IOMMU_IOAS_ALLOC), argument))
        caller.start()
        answered = 0
        while caller.is_alive():
            ioas(other)
            answered += 1
        assert answered > 20, answered
        assert iommufd.IOAS_ALLOC.unpack(big[:iommufd.IOAS_ALLOC.size])[2] > 0
    """
    run_devices(source)
