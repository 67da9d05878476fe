// Creates a session by bare system calls, in Rust: tests/emulator/machine/test_programs.py.
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

#[repr(C)]
struct Create {
    size: u32,
    fd: i32,
    name: [u8; 64],
}

extern "C" {
    fn ioctl(fd: i32, request: u64, argument: *mut Create) -> i32;
}

fn main() {
    let open = || OpenOptions::new().read(true).write(true).open("/dev/liveupdate");
    let device = open().expect("the device opens");
    let mut create = Create { size: 72, fd: -1, name: [0; 64] };
    create.name[..4].copy_from_slice(b"rust");
    let result = unsafe { ioctl(device.as_raw_fd(), 0xBA00, &mut create) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    assert_eq!(open().expect_err("opened twice").raw_os_error(), Some(16));
    assert!(create.fd > device.as_raw_fd());
    println!("a session");
}
