// Creates a session by bare system calls, in a static Go program: tests/emulator/machine/test_programs.py.
package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

type create struct {
	size uint32
	fd   int32
	name [64]byte
}

func main() {
	device, err := syscall.Open("/dev/liveupdate", syscall.O_RDWR, 0)
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	request := create{size: 72}
	copy(request.name[:], "go")
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(device), 0xBA00, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		fmt.Println("failed:", errno)
		os.Exit(1)
	}
	if _, err := syscall.Open("/dev/liveupdate", syscall.O_RDWR, 0); err != syscall.EBUSY {
		fmt.Println("opened twice")
		os.Exit(1)
	}
	if int(request.fd) > device {
		fmt.Println("a session")
	}
}
